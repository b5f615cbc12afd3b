"""The handover of slots from a dispatcher that is dead or frozen, in four steps. The takeover calls them in this order.

    revoke   commit that nobody owns its slots: no claim that begins after this takes a row of them
    fence    end its sessions and connections: a claim that began before this has ended, and has committed or not
    adopt    settle or release the rows that it had in hand, after the stream was searched for them (takeover.py)
    free     only now may another own its slots

Without one of the steps a claim of the old owner could commit beside one of the new. Each step is durable, so
that another dispatcher goes on if this one dies on the way.
"""

from collections.abc import Sequence

from dispatcher.core.counted import counted
from dispatcher.core.errors import Unreachable
from dispatcher.core.events import Observer, SlotsFreed, SlotsRevoked
from dispatcher.infra.postgres import locks
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.redis.connection import RedisConnection
from dispatcher.infra.sqlfiles import load
from dispatcher.upkeep.fence import fence, token_of
from dispatcher.upkeep.slot_keeper import SlotKeeper

_LOCK = f"SELECT pg_try_advisory_lock({locks.HANDOVER})"
_UNLOCK = f"SELECT pg_advisory_unlock({locks.HANDOVER})"


class SlotHandover:
    """Used by the takeover's task only, on its session. Errors as of the statements."""

    def __init__(self, keeper: SlotKeeper, observe: Observer) -> None:
        self._keeper = keeper
        self._observe = observe
        self._unfinished = False  # we have revoked or fenced, and not all is free
        self._revoked: dict[int, dict[int, int]] = {}  # by owner: the slots to be marked as fenced, and their epochs

    async def revoke(self, session: Session, owner: int, name: str, *, seen_at: str | None = None) -> bool:
        """First step. `seen_at`: only if it gave no sign of life since. Returns whether it has to be fenced."""
        rows = await session.fetch(load("slots_revoke"), {"owner": owner, "seen_at": seen_at})
        self._revoked[owner] = epochs = {slot: epoch for slot, epoch, _ in rows}
        if epochs:
            self._unfinished = True
            self._observe(SlotsRevoked(len(epochs), name))
        return bool(epochs)

    async def fence(
        self, session: Session, connections: Sequence[RedisConnection], owner: int, name: str, deadline_s: float
    ) -> None:
        """Second step. Raises Unreachable when a session of it did not end: then nobody may own its slots."""
        token = {"token": token_of(name)}
        before = set(await session.fetch(load("sessions_of"), token))
        await fence(session, connections, name, deadline_s)
        if left := before & set(await session.fetch(load("sessions_of"), token)):
            raise Unreachable(
                f"{counted(len(left), 'session')} of the dispatcher {name} did not end, so nobody may own its slots: "
                "end what is left (pg_terminate_backend), and let all dispatchers have one role, which may do that"
            )
        epochs = self._revoked.pop(owner, {})
        await session.fetch(
            load("slots_fenced"), {"owner": owner, "wanted": list(epochs), "at_epochs": list(epochs.values())}
        )

    async def fence_frozen(self, session: Session, connections: Sequence[RedisConnection], deadline_s: float) -> None:
        """First and second step for those that gave no sign of life for a lease. The fence makes them look dead."""
        for owner, name, seen_at in self._keeper.frozen:
            # One at a time: a second fence would end the sessions of one that has come back meanwhile.
            [(ours,)] = await session.fetch(_LOCK)
            if not ours:
                return
            try:
                if await self.revoke(session, owner, name, seen_at=seen_at):
                    await self.fence(session, connections, owner, name, deadline_s)
            finally:
                await session.fetch(_UNLOCK)

    async def free(self, session: Session) -> None:
        """Last step, for all slots of which nothing is in hand any more."""
        if self._unfinished or self._keeper.unfinished:
            if freed := len(await session.fetch(load("slots_free"))):
                self._observe(SlotsFreed(freed))
            self._unfinished = False
            self._keeper.check_soon()
