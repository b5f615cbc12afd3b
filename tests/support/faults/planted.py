"""`python -m tests.support.faults.planted run`: the dispatcher with one part of the order left out, by PLANTED's name.

The harness must catch each of them: see tests/faults/test_order_planted.py. It proves that the checks can fail.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import anyio

from dispatcher.core.held import Held, State
from dispatcher.core.owned_slots import OwnedSlots, slots_of
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.sqlfiles import load
from dispatcher.stages import publish
from dispatcher.upkeep.fence import fence
from dispatcher.upkeep.slot_handover import SlotHandover

PLANTED = "PLANTED"  # the environment variable
# With a row in it, who fenced first goes on.
GATE = (
    "CREATE TABLE audit.gate (open boolean); GRANT SELECT ON audit.gate TO PUBLIC; "
    "GRANT USAGE ON SCHEMA audit TO PUBLIC"
)


def no_multi() -> None:
    """Publish a batch entry by entry: some may be refused, and later ones taken."""

    def send(connection: Any, entry: Any, batch: Any, deadline_s: float) -> publish.SentBatch:
        return publish.send(connection, entry, batch._replace(keys={}), deadline_s)

    publish._send_in_order = send  # type: ignore[assignment]


def no_held_set() -> None:
    """Forget which events failed: later ones of their aggregates go out."""

    def add(self: Held, row_id: int, key: int, state: State) -> None:
        """Forget it."""

    Held.add = add  # type: ignore[method-assign]


def ignore_what_others_picked() -> None:
    """What an owner finds picked by another holds its aggregate: the second guard of each handover, left out too."""
    known = Held.add

    def add(self: Held, row_id: int, key: int, state: State) -> None:
        """All but those."""
        if state != "unknown":
            known(self, row_id, key, state)

    Held.add = add  # type: ignore[method-assign]


def no_drain() -> None:
    """Release slots while rows of them are in flight; and the next owner takes no notice of such rows."""
    ignore_what_others_picked()
    OwnedSlots.releasable = property(lambda self: slots_of(self._giving_up))  # type: ignore[assignment]


def fence_first() -> None:
    """Fence, and revoke only later: meanwhile the frozen one may wake up and claim."""
    revoke = SlotHandover.revoke

    async def owes(self: SlotHandover, session: Session, owner: int, name: str, *, seen_at: str | None = None) -> bool:
        asked = "SELECT 1 FROM messaging.slot_owner WHERE %(owner)s IN (owner, revoked_from)"
        return bool(await session.fetch(asked, {"owner": owner}))

    async def fence_then_revoke(
        self: SlotHandover, session: Session, connections: Any, owner: int, name: str, deadline_s: float
    ) -> None:
        await fence(session, connections, name, deadline_s)
        while not await session.fetch("SELECT 1 FROM audit.gate"):  # noqa: ASYNC110 -- a table rings no bell
            await anyio.sleep(0.05)
        await revoke(self, session, owner, name)
        await session.fetch(load("slots_fenced"), {"owner": owner, "wanted": list(range(256)), "at_epochs": None})

    async def free(self: SlotHandover, session: Session) -> None:
        """Whether or not rows of it are picked, which is the second guard."""
        freed = "UPDATE messaging.slot_owner SET revoked_from = NULL, fenced = false WHERE fenced RETURNING slot"
        if await session.fetch(freed):
            self._keeper.look_soon()

    ignore_what_others_picked()
    SlotHandover.free = free  # type: ignore[method-assign]
    SlotHandover.revoke = owes  # type: ignore[method-assign]
    SlotHandover.fence = fence_then_revoke  # type: ignore[method-assign]


FAULTS: dict[str, Callable[[], None]] = {
    "no MULTI": no_multi,
    "no held set": no_held_set,
    "handover without drain": no_drain,
    "no revocation before the fence": fence_first,
}

if __name__ == "__main__":
    FAULTS[os.environ[PLANTED]]()
    from dispatcher.cli import main

    main(sys.argv[1:])
