"""What it costs a row that its handler had begun when its process ended: the row may be what ended it.

Other handlers ran beside it, and nobody knows which of them ended the process. So each of their rows runs alone from
then on, and only one that ran alone can be buried for it.
"""

from collections.abc import Callable, Sequence
from random import Random

from dispatcher.core.decide import RetryPolicy, brief
from dispatcher.core.events import Buried, Handled, Observer, Settled
from dispatcher.core.outcome import BatchOutcomes, FailedAttempt, FailedForGood, Outcome, Waits
from dispatcher.core.row import PROCESS_LOST, HandlerMark
from dispatcher.infra.postgres.session import Session
from dispatcher.stages.settle import Settlement
from dispatcher.upkeep.adopted import Adopted, AdoptedRow
from dispatcher.upkeep.fence import lives


async def charge_begun(
    session: Session, adopted: Adopted, retry: Callable[[str], RetryPolicy], rng: Random
) -> tuple[list[AdoptedRow], BatchOutcomes]:
    """The rows that are charged, and their outcomes. None if their dispatcher lives: then no handler ended it.

    `retry`: the policy for an event type.
    """
    outcomes = BatchOutcomes()
    begun = [row for row in adopted.rows if row.begun]
    if begun and adopted.died is not None and await lives(session, adopted.died):
        return [], outcomes
    for row in begun:
        outcomes.add(row.id, charge(row, adopted.cause, retry(row.event_type), rng))
    return begun, outcomes


def charge(row: AdoptedRow, cause: str, retry: RetryPolicy, rng: Random) -> Outcome:
    """The outcome of such a row. The row runs alone next, because its error begins with PROCESS_LOST."""
    error, attempt = brief(f"{PROCESS_LOST}: {cause}"), row.attempts + 1
    delay_s = retry.backoff.reconnect_delay(attempt, rng)
    if row.stream_id == HandlerMark.MAY_HAVE_BEGUN:
        return Waits(delay_s, error)
    if attempt < retry.max_attempts:
        return FailedAttempt(delay_s, error)
    return FailedForGood(error) if row.stream_id == HandlerMark.ALONE else Waits(delay_s, error)


def tell_charged(
    rows: Sequence[AdoptedRow], outcomes: BatchOutcomes, settlement: Settlement, observe: Observer
) -> None:
    """Tell of these rows what a handler relay tells of a row that it handled."""
    errors = {row_id: each.error for row_id, each in [*outcomes.retries, *outcomes.dead]}
    unwritten = settlement.not_ours | settlement.undone
    for row in rows:
        if row.id not in unwritten:
            observe(Handled(row.id, row.event_type, "lost", 0.0, 0.0, errors[row.id]))
    if dead := outcomes.buried(unwritten):
        observe(Buried(dead))
    retried, waiting = settlement.retried, settlement.waiting
    observe(Settled(sent=0, retried=retried, dead=settlement.dead, released=0, unknown=0, lost=0, waiting=waiting))
