"""A settler without a relay around it."""

from random import Random

from dispatcher.core.events import Observer
from dispatcher.relay.settler import WAIT_S, Settler


def make_settler(
    observe: Observer, *, batch_size: int = 10, rng: Random | None = None, wait_s: float = WAIT_S
) -> Settler:
    """One that wakes nobody and doubts nothing; leases are of 30 s."""
    return Settler(
        batch_size=batch_size,
        lease_s=30.0,
        wake=lambda delay_s: None,
        run_trials_first=lambda: None,
        given_back=lambda ids: None,
        on_aside_round=lambda: None,
        observe=observe,
        rng=rng or Random(1),
        wait_s=wait_s,
    )
