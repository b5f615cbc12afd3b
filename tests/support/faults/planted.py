"""`python -m tests.support.faults.planted run`: the dispatcher with one part of the order left out, by PLANTED's name.

The harness must catch each of them: see tests/faults/test_order_planted.py. It proves that the checks can fail.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import anyio

from dispatcher.core.held import Held, HoldReason
from dispatcher.core.owned_slots import OwnedSlots, slots_of
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.sqlfiles import load
from dispatcher.stages import publish
from dispatcher.upkeep.slot_handover import SlotHandover

PLANTED = "PLANTED"  # the environment variable
# With a row in it, whoever has fenced goes on.
GATE = (
    "CREATE TABLE audit.gate (open boolean); GRANT SELECT ON audit.gate TO PUBLIC; "
    "GRANT USAGE ON SCHEMA audit TO PUBLIC"
)


def no_multi() -> None:
    """Publish a batch entry by entry: some may be refused, and later ones taken."""

    def send(connection: Any, entry: Any, batch: Any, deadline_s: float) -> publish.WrittenBatch:
        return publish.send(connection, entry, batch._replace(aggregate_keys={}), deadline_s)

    publish._send_in_order = send  # type: ignore[assignment]


def no_held_set() -> None:
    """Forget which events failed: later ones of their aggregates go out."""

    def add(self: Held, row_id: int, key: int, reason: HoldReason) -> None:
        """Forget it."""

    Held.add = add  # type: ignore[method-assign]


def ignore_what_others_picked() -> None:
    """What an owner finds picked by another holds its aggregate: the second guard of each handover, left out too."""
    known = Held.add

    def add(self: Held, row_id: int, key: int, reason: HoldReason) -> None:
        """All but those."""
        if reason is not HoldReason.OTHER_CLAIM:
            known(self, row_id, key, reason)

    Held.add = add  # type: ignore[method-assign]


def no_drain() -> None:
    """Release slots while rows of them are in flight; and the next owner takes no notice of such rows."""
    ignore_what_others_picked()
    OwnedSlots.releasable = property(lambda self: slots_of(self._giving_up))  # type: ignore[assignment]


def fence_first() -> None:
    """Fence, stall, and revoke only then: meanwhile the frozen one may wake up and claim."""
    revoke, fence = SlotHandover.revoke, SlotHandover.fence

    async def owes(self: SlotHandover, session: Session, owner: int, name: str, *, seen_at: str | None = None) -> bool:
        asked = "SELECT 1 FROM messaging.slot_owner WHERE %(owner)s IN (owner, revoked_from)"
        return bool(await session.fetch(asked, {"owner": owner}))

    async def fence_then_revoke(
        self: SlotHandover, session: Session, connections: Any, owner: int, name: str, deadline_s: float
    ) -> None:
        await fence(self, session, connections, owner, name, deadline_s)
        await _stalled(session)
        await revoke(self, session, owner, name)
        slots = list(self._revoked.pop(owner))
        await session.fetch(load("slots_fenced"), {"owner": owner, "wanted": slots, "at_epochs": None})

    SlotHandover.revoke = owes  # type: ignore[method-assign]
    SlotHandover.fence = fence_then_revoke  # type: ignore[method-assign]


def stalls_after_the_fence() -> None:
    """Nothing is left out: a successor that stalls where `fence_first` does."""
    fence = SlotHandover.fence

    async def fence_and_stall(
        self: SlotHandover, session: Session, connections: Any, owner: int, name: str, deadline_s: float
    ) -> None:
        await fence(self, session, connections, owner, name, deadline_s)
        await _stalled(session)

    SlotHandover.fence = fence_and_stall  # type: ignore[method-assign]


async def _stalled(session: Session) -> None:
    while not await session.fetch("SELECT 1 FROM audit.gate"):  # noqa: ASYNC110 -- a table rings no bell
        await anyio.sleep(0.05)


FAULTS: dict[str, Callable[[], None]] = {
    "no MULTI": no_multi,
    "no held set": no_held_set,
    "handover without drain": no_drain,
    "no revocation before the fence": fence_first,
    "nothing, but it stalls after the fence": stalls_after_the_fence,
}

if __name__ == "__main__":
    FAULTS[os.environ[PLANTED]]()
    from dispatcher.cli import main

    main(sys.argv[1:])
