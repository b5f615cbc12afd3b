"""The audit after a crash of Postgres: the streams are searched for settles that it forgot, before anything is claimed.

Our sessions do not wait for the disk, so a crash may undo their last claims and settles: rows that are in the stream
say `pending` again. A failover to a standby that lagged and a restore do the same. All of them empty an unlogged table
that every claim reads (messaging.unbroken). The whole argument: docs/explanation/decisions/0010.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from uuid import UUID

from dispatcher.core.errors import Unreachable
from dispatcher.core.events import CrashAudited, Observer
from dispatcher.core.incarnation import RedisIncarnation, stream_order
from dispatcher.infra.postgres import locks
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.tables import why_copy
from dispatcher.infra.redis.connection import RedisConnection
from dispatcher.infra.redis.search import read_pages
from dispatcher.infra.sqlfiles import load
from dispatcher.upkeep.duty import repeat, tell_failure
from dispatcher.upkeep.fence import end_connections
from dispatcher.upkeep.standing_layout import StandingLayout

EVERY_S = 1.0
SKEW_MS = 10_000  # by which the clocks of several servers may differ
NOTE_AGAIN_S = 60.0  # while the stream is as it was when last noted

_LOCK = f"SELECT pg_try_advisory_lock({locks.CRASH_SEARCH})"
_UNLOCK = f"SELECT pg_advisory_unlock({locks.CRASH_SEARCH})"


@dataclass(frozen=True, slots=True)
class AuditedSink:
    """Streams of one server or shard: who publishes to them, and a connection of another name that searches."""

    streams: Sequence[str]
    publisher: RedisConnection
    searcher: RedisConnection
    verify: Callable[[RedisConnection], Awaitable[RedisIncarnation]]


class PostgresCrashAudit:
    """Notes the newest entry in Postgres, and searches from there when Postgres may have forgotten."""

    def __init__(
        self,
        sinks: Sequence[AuditedSink],
        *,
        layout: StandingLayout,
        deadline_s: float,
        wake: Callable[[], None],
        observe: Observer,
    ) -> None:
        self._sinks = sinks
        self._streams = [stream for sink in sinks for stream in sink.streams]
        self._layout = layout
        self._deadline_s = deadline_s
        self._wake = wake
        self._observe = observe
        self._noted: tuple[Session, object] | None = (
            None  # the session and the entry of the last note that found all well
        )
        self._note_at = 0.0  # when to note again, though nothing changed

    async def run(self, postgres: ReconnectingSession) -> None:
        """Once a second, unless nothing was published, and at once on a new session, until cancelled."""
        failed = tell_failure(self._observe, "audit after a crash of Postgres")
        await repeat(postgres, self._check, failed=failed, pause_s=EVERY_S)

    async def _check(self, session: Session) -> float:
        # A crash ends every session: on the session of the last note nothing can have been forgotten since.
        if self._layout.differs:  # nothing of ours is in flight, and other streams are to be searched
            return EVERY_S
        due = self._noted != (session, self._known()["floor"]) or monotonic() >= self._note_at
        if due and not await self.note(session):
            await self.audit(session)
        return EVERY_S

    async def note(self, session: Session) -> bool:
        """Note the newest entry we know. False: an audit is due, and nothing is claimed before it."""
        known = self._known()
        parameters = {"streams": self._streams, "layout": self._layout.our_fingerprint, **known}
        [(unbroken, stands)] = await session.fetch(load("note_newest"), parameters)
        if stands != self._layout.our_fingerprint:  # it was set a moment ago: that we claim nothing now is no crash
            self._layout.read_soon()
            return True
        self._noted = (session, known["floor"]) if unbroken and known["floor"] is not None else None
        self._note_at = monotonic() + NOTE_AGAIN_S
        return bool(unbroken)

    def _known(self) -> dict[str, object]:
        """The newest entry, and the data set that it is of. Of several none is named: their clocks may differ."""
        incarnations = [sink.publisher.incarnation for sink in self._sinks]
        several = len(self._sinks) > 1
        if None in incarnations:
            return {"floor": None, "replid": "", "several": several, "may_fall": False}
        entries = [sink.publisher.known_entries for sink in self._sinks]
        if not several and incarnations[0] is not None:
            floor, by_clock = entries[0].search_from(entries[0].floor), len(self._streams) > 1
            return {"floor": floor, "replid": incarnations[0].replid, "several": False, "may_fall": by_clock}
        oldest = min(stream_order(each.floor) for each in entries)
        return {"floor": f"{max(oldest[0] - SKEW_MS, 0)}-0", "replid": "", "several": True, "may_fall": False}

    async def audit(self, session: Session) -> None:
        """Search the streams, unless another dispatcher does.

        Raises SessionLost, psycopg.Error, Unreachable or Misconfigured.
        """
        # Behind a pooler a session lock would stay in the pool. Two at once find the same, so it only spares work.
        if not session.pooled:
            [(ours,)] = await session.fetch(_LOCK)
            if not ours:
                return
        try:
            if not await self.note(session):
                if why := await why_copy(session, settle=True):  # a dump was restored under us
                    session.server_gone = True  # for all our sessions: each is refused with that reason from now on
                    raise session.lose(why)
                await self._search(session)
        finally:
            for sink in self._sinks:
                sink.searcher.close()
            if not session.pooled and not session.closed:
                await session.fetch(_UNLOCK)

    async def _search(self, session: Session) -> None:
        # What was claimed before the crash must not arrive after the search: it was written on a connection of before.
        names = [name for (name,) in await session.fetch(load("all_dispatchers"))]
        ended = set[str]()
        for sink in self._sinks:
            await sink.searcher.connect()
            sink.searcher.set_incarnation(await sink.verify(sink.searcher))
            if sink.searcher.server not in ended:
                await end_connections(sink.searcher, names, self._deadline_s)
                ended.add(sink.searcher.server)
        searched = found = 0  # entries
        for since, begin in await session.fetch(load("crash_since"), {"streams": self._streams}):
            for sink in self._sinks:
                entries, settled = await self._search_sink(session, sink, since, begin)
                searched, found = searched + entries, found + settled
        await session.fetch(load("mark_unbroken"), {"layout": self._layout.our_fingerprint})
        self._observe(CrashAudited(found, searched))
        self._wake()

    async def _search_sink(self, session: Session, sink: AuditedSink, since: str, begin: str) -> tuple[int, int]:
        searcher, incarnation = sink.searcher, sink.searcher.incarnation
        if incarnation is None:
            raise Unreachable("the connection that searches was lost")

        async def again() -> None:
            await searcher.connect()
            if await sink.verify(searcher) != incarnation:
                raise Unreachable("another incarnation of Redis holds the stream than a moment ago")

        searched = found = 0
        for stream in sink.streams:
            async for page in read_pages(searcher, stream, begin, self._deadline_s, again):
                searched += len(page)
                found += await self._settle(session, incarnation, stream, since, page)
        return searched, found

    async def _settle(
        self, session: Session, incarnation: RedisIncarnation, stream: str, since: str, page: list[tuple[str, str]]
    ) -> int:
        ours = {event_id: stream_id for stream_id, event_id in page if _may_be_ours(event_id)}
        rows = await session.fetch(
            load("settle_found"),
            {
                "event_ids": list(ours),
                "stream_ids": list(ours.values()),
                "since_id": since,
                "key": None if self._layout.ours.plain else stream,
                "stream": stream,
                "run_id": incarnation.run_id if incarnation.known else None,
                "replid": incarnation.replid,
                "life": next((life for _, life in incarnation.lives_of([stream])), None),
            },
        )
        return len(rows)


def _may_be_ours(event_id: str) -> bool:
    """Whether it is written as Postgres writes a UUID: of what Python takes for one Postgres refuses some, for good."""
    try:
        return str(UUID(event_id)) == event_id
    except ValueError:
        return False
