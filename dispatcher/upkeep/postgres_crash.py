"""The audit after a crash of Postgres: what it forgot is looked for in the stream before anything is claimed.

Our sessions do not wait for the disk, so a crash may undo their last claims and settles: rows that are in the stream
say `pending` again. So does a failover to a standby that lagged, and a restore. All of them empty an unlogged table
that every claim asks for (messaging.unbroken). docs/explanation/decisions/0010 has the whole argument.
"""

from collections.abc import Awaitable, Callable
from time import monotonic
from uuid import UUID

from dispatcher.core.events import CrashAudited, Observer
from dispatcher.core.incarnation import RedisIncarnation
from dispatcher.infra.postgres import locks
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.redis.connection import RedisConnection
from dispatcher.infra.redis.search import read_pages
from dispatcher.infra.sqlfiles import load
from dispatcher.upkeep.duty import repeat, tell_failure
from dispatcher.upkeep.fence import end_connections

EVERY_S = 1.0
NOTE_AGAIN_S = 60.0  # while the stream is as it was when last noted

_LOCK = f"SELECT pg_try_advisory_lock({locks.CRASH_SEARCH})"
_UNLOCK = f"SELECT pg_advisory_unlock({locks.CRASH_SEARCH})"


class PostgresCrashAudit:
    """Notes how far the stream is, and looks through its end when Postgres may have forgotten. One for a process."""

    def __init__(
        self,
        stream: str,
        *,
        publisher: RedisConnection,
        looker: RedisConnection,
        verify: Callable[[RedisConnection], Awaitable[RedisIncarnation]],
        deadline_s: float,
        wake: Callable[[], None],
        observe: Observer,
    ) -> None:
        self._stream = stream
        self._publisher = publisher
        self._looker = looker  # a connection of its own, of another name: it ends all those that publish, ours too
        self._verify = verify
        self._deadline_s = deadline_s
        self._wake = wake
        self._observe = observe
        self._noted: tuple[Session, str] | None = None  # on this session it was all right, up to this entry
        self._note_at = 0.0  # again, whatever was noted

    async def run(self, postgres: ReconnectingSession) -> None:
        """Once a second, unless nothing was published, and at once on a new session, until cancelled."""
        failed = tell_failure(self._observe, "audit after a crash of Postgres")
        await repeat(postgres, self._check, failed=failed, pause_s=EVERY_S)

    async def _check(self, session: Session) -> float:
        # A crash ends every session, so one that was all right is, and need not be asked for nothing.
        due = self._noted != (session, self._publisher.floor) or monotonic() >= self._note_at
        if due and not await self.note(session):
            await self.audit(session)
        return EVERY_S

    async def note(self, session: Session) -> bool:
        """Note the newest entry we know. False: an audit is due, and nothing is claimed before it."""
        incarnation = self._publisher.incarnation
        known = (
            {"floor": None, "replid": ""}
            if incarnation is None
            else {"floor": self._publisher.floor, "replid": incarnation.replid}
        )
        [(unbroken,)] = await session.fetch(load("note_newest"), {"stream": self._stream, **known})
        self._noted = (session, known["floor"]) if unbroken and known["floor"] is not None else None
        self._note_at = monotonic() + NOTE_AGAIN_S
        return bool(unbroken)

    async def audit(self, session: Session) -> None:
        """Look, unless another dispatcher does. Raises SessionLost, psycopg.Error, Unreachable or Misconfigured."""
        # Behind a pooler a session lock would stay in the pool. Two at once find the same, so it only spares work.
        if not session.pooled:
            [(ours,)] = await session.fetch(_LOCK)
            if not ours:
                return
        try:
            if not await self.note(session):
                await self._look(session)
        finally:
            self._looker.close()
            if not session.pooled and not session.closed:
                await session.fetch(_UNLOCK)

    async def _look(self, session: Session) -> None:
        await self._looker.connect()
        incarnation = await self._verify(self._looker)
        # What was claimed before the crash must not arrive after the look: it was written on a connection of before.
        names = [name for (name,) in await session.fetch(load("all_dispatchers"))]
        await end_connections(self._looker, names, self._deadline_s)
        looked_at = found = 0
        for since, begin in await session.fetch(load("crash_since"), {"stream": self._stream}):
            async for page in read_pages(self._looker, self._stream, begin, self._deadline_s):
                looked_at += len(page)
                found += await self._settle(session, incarnation, since, page)
        await session.fetch(load("mark_unbroken"))
        self._observe(CrashAudited(found, looked_at))
        self._wake()

    async def _settle(
        self, session: Session, incarnation: RedisIncarnation, since: str, page: list[tuple[str, str]]
    ) -> int:
        ours = {event_id: stream_id for stream_id, event_id in page if _is_uuid(event_id)}
        rows = await session.fetch(
            load("settle_found"),
            {
                "event_ids": list(ours),
                "stream_ids": list(ours.values()),
                "since_id": since,
                "stream": incarnation.stream,
                "run_id": incarnation.run_id if incarnation.known else None,
                "replid": incarnation.replid,
            },
        )
        return len(rows)


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
