"""What Postgres says of who holds the streams: the table messaging.stream_server, one row a stream."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any, NamedTuple

import psycopg

from dispatcher.core.errors import SessionLost, Unreachable
from dispatcher.core.incarnation import RedisIncarnation, StreamEnd
from dispatcher.infra.postgres import locks
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session, describe
from dispatcher.infra.redis.stream_end import Gap, KnownEnd, SeenServer
from dispatcher.infra.sqlfiles import load

EMPTIED = "the stream lost its end while Redis ran on (FLUSHALL, DEL, RENAME, an older copy)"


class AuditStep(NamedTuple):
    """What one statement of an audit did: see audit_stream.sql."""

    republished: int  # rows put back
    done: bool  # nothing is left to put back
    changed: bool  # entries may have been lost
    replid_before: str | None
    life: int  # from now on


class StreamServers:
    """Of the streams of one server. Everything raises Unreachable while Postgres does not answer.

    `default_stream`: the stream of the rows that name none.
    """

    def __init__(
        self, streams: Sequence[str], postgres: ReconnectingSession, *, window_s: float, default_stream: str, chunk: int
    ) -> None:
        self._streams = streams
        self._postgres = postgres
        self._window_s = window_s
        self._default_stream = default_stream
        self._chunk = chunk
        # Of each stream mark_at in Postgres, and since when it is seen (monotonic).
        self._marks: dict[str, tuple[float, float]] = {}

    @property
    def up(self) -> bool:
        """Whether Postgres can be asked."""
        return self._postgres.session is not None

    def _session(self) -> Session:
        if self._postgres.session is None:
            raise Unreachable("Postgres must say which incarnation of Redis holds the stream, and is not connected")
        return self._postgres.session

    async def noted(self, incarnation: RedisIncarnation) -> dict[str, KnownEnd]:
        """What Postgres knows of the streams that it says this incarnation holds."""
        rows = await self._fetch(self._session(), load("saw_stream"), _identity(self._streams, incarnation))
        found = {row[0]: KnownEnd(*row) for row in rows}
        return {stream: found[stream] for stream in self._streams if stream in found}

    @asynccontextmanager
    async def nobody_settles(self) -> AsyncIterator[None]:
        """Hold the lock that every settle needs. Not behind a transaction pooler: there it would stay in the pool."""
        session = self._session()
        if session.pooled:
            yield
            return
        await self._fetch(session, f"SELECT pg_advisory_lock({locks.INCARNATION})", {})
        try:
            yield
        finally:
            with suppress(Unreachable):  # the lock goes with the session
                await self._fetch(session, f"SELECT pg_advisory_unlock({locks.INCARNATION})", {})

    async def audit(self, seen: SeenServer, stream: str, gap: Gap | None, life: int | None, so_far: int) -> AuditStep:
        """Put back some rows of which the stream lost the entries; once it is done Postgres names this incarnation.

        `gap`: what a server that ran on lost, in this `life` of the stream; None: another incarnation holds it now.
        `so_far`: how many rows this audit has put back.
        """
        end = seen.ends[stream]
        parameters: dict[str, object] = {
            **_identity((stream,), seen.incarnation),
            "stream": stream,
            "is_default": stream == self._default_stream,
            "life": life,
            "last_id": end.last_id if gap is None else gap.after,
            "below": None if gap is None else gap.before,
            "newest_id": end.known_id,
            "added": end.added,
            "why": "another incarnation of Redis held the stream" if gap is None else EMPTIED,
            "window_s": self._window_s,
            "at_most": self._chunk,
            "so_far": so_far,
        }
        [row] = await self._fetch(self._session(), load("audit_stream"), parameters)
        return AuditStep(*row)

    async def write_ends(self, incarnation: RedisIncarnation, ends: Mapping[str, StreamEnd], address: str) -> None:
        """Note the ends of the streams; and move a window on, once this process has seen its mark for so long."""
        now, lives = monotonic(), dict(incarnation.lives)
        marks = [self._marks.get(stream, (None, now)) for stream in ends]
        parameters: dict[str, object] = {
            "lives": [lives[stream] for stream in ends],
            "newest_ids": [end.known_id for end in ends.values()],
            "entries": [end.added for end in ends.values()],
            "seen_marks": [mark_at if now - since >= self._window_s else None for mark_at, since in marks],
            "address": address,
        }
        rows = await self._fetch(
            self._session(), load("note_stream"), {**_identity(tuple(ends), incarnation), **parameters}
        )
        for stream, mark_at in rows:
            if self._marks.get(stream, (None, now))[0] != mark_at:
                self._marks[stream] = (mark_at, now)

    async def ask(self, sql: str, parameters: Mapping[str, object] | None) -> list[tuple[Any, ...]]:
        return await self._fetch(self._session(), sql, dict(parameters or {}))

    async def _fetch(self, session: Session, sql: str, parameters: dict[str, object]) -> list[tuple[Any, ...]]:
        try:
            return await session.fetch(sql, parameters)
        except (SessionLost, psycopg.Error) as error:
            raise Unreachable(
                f"Postgres must say which incarnation of Redis holds the stream: {describe(error)}"
            ) from None


def _identity(streams: Sequence[str], incarnation: RedisIncarnation) -> dict[str, object]:
    return {"streams": list(streams), "run_id": incarnation.run_id, "replid": incarnation.replid}
