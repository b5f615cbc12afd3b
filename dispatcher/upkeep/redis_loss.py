"""The audit after a loss of Redis: entries that Redis acknowledged and lost are published again.

A failover, or a restart without the end of the append-only file, loses entries whose rows say `sent`. Another
incarnation (run id or replication id) is the sign of it. No dispatcher publishes to it until the rows whose entry id is
above its newest one are put back: a single new entry would move that id past the lost ones. The whole argument:
docs/explanation/decisions/0008. A stream that lost its end while the server ran on (FLUSHALL, DEL, an older copy) is
audited too: it begins another life. A proxy that answers each connection with another run id: no audit.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from time import monotonic
from typing import Any

import anyio
import psycopg

from dispatcher.core.errors import SessionLost, Unreachable
from dispatcher.core.events import AuditChanged, Observer, Republished
from dispatcher.core.incarnation import RedisIncarnation, StreamEnd
from dispatcher.infra.postgres import locks
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session, describe
from dispatcher.infra.redis.connection import RedisConnection
from dispatcher.infra.redis.stream_end import (
    Forbidden,
    Gap,
    KnownEnd,
    Seen,
    ask_elsewhere,
    ask_incarnation,
    info_fields,
    look_for_gap,
)
from dispatcher.infra.sqlfiles import load
from dispatcher.upkeep.clone import refuse_clone

CHUNK = 20_000  # rows put back in one statement, well within its timeout; settles wait as long
EVERY_S = 1.0
NOTE_EVERY = 5  # checks; less often than the shortest useful window
EMPTIED = "the stream lost its end while Redis ran on (FLUSHALL, DEL, RENAME, an older copy)"
PROXY = "each connection to Redis is told another run id: a proxy makes it up, and a failover behind it would not show"


class RedisLossAudit:
    """Remembers in Postgres which incarnation of Redis holds the stream, and audits a new one. One in a process."""

    def __init__(
        self,
        stream: str,
        postgres: ReconnectingSession,
        *,
        window_s: float,
        deadline_s: float,
        wake: Callable[[], None],
        observe: Observer,
        chunk: int = CHUNK,
    ) -> None:
        self._stream = stream
        self._postgres = postgres
        self._window_s = window_s
        self._deadline_s = deadline_s
        self._wake = wake
        self._observe = observe
        self._chunk = chunk
        self._on: bool | None = None  # what was reported last; written by _report()
        self._lived = False  # this process knew a Redis that holds the stream: no clone; written by verify()
        self._proxied = False  # the run id is one of a connection, and tells nothing; written by _differ()
        self._length = 0  # of the stream, at the last check
        self._turn: tuple[float, float] | None = None  # mark_at in Postgres, and since when it is seen (monotonic)

    async def verify(self, connection: RedisConnection, *, holds: RedisIncarnation | None = None) -> RedisIncarnation:
        """The incarnation that this connection leads to; once this returns, Postgres names it as the stream's holder.

        `holds`: what another open connection of ours was verified to lead to; for the same one Postgres is not asked.
        Raises Unreachable while nothing may be published there: a replica, a server that loads, Postgres away.
        """
        seen = await self._ask(connection)
        if seen is None:
            return RedisIncarnation(self._stream)
        # Once a replica, a primary may have dropped entries: those to come may be older than the known ones.
        connection.floor = seen.end.last_id
        if holds is not None and holds.same_server(seen.incarnation):
            return holds
        noted = await self._noted(seen.incarnation)
        if noted is not None:
            held = replace(seen.incarnation, life=noted.life)
            if await self._gap(connection, held, noted) is None:
                self._lived = True
                return held
        else:
            if await self._differ(connection, seen.incarnation):
                return RedisIncarnation(self._stream)
            if not self._lived:
                await refuse_clone(self._ask_postgres, connection, self._stream, self._deadline_s)
        # A dispatcher that does not know of the new incarnation yet may publish to it, and settle, after we asked for
        # the newest entry. Under the lock nobody settles: rows that say `sent` and are newer than that entry are lost.
        async with self._nobody_settles():
            # Asked before Redis: what is noted by then must still be in the stream.
            noted = await self._noted(seen.incarnation)
            now = await self._ask(connection)
            if now is None or not now.incarnation.same_server(seen.incarnation):
                raise Unreachable("another incarnation of Redis holds the stream than a moment ago")
            connection.floor = now.end.last_id
            self._lived = True
            if noted is None:
                life = await self._audit_all(now, None, None)
                return replace(seen.incarnation, life=life)
            held = replace(seen.incarnation, life=noted.life)
            gap = await self._gap(connection, held, noted)
            if gap is None:
                return held
            return replace(held, life=await self._audit_all(now, gap, noted.life))

    async def _audit_all(self, seen: Seen, gap: Gap | None, life: int | None) -> int:
        """Put back what is lost; the life from now on. `gap`, `life`: what is lost of which life of the same server."""
        so_far = 0
        while True:
            republished, done, changed, was, now_life = await self._audit(seen, gap, life, so_far)
            so_far += republished
            if changed and (republished or done):
                promoted = was == seen.replid2
                why = "a replica was promoted" if promoted else "it is another incarnation"
                self._observe(Republished(republished, why if gap is None else EMPTIED, same_server=gap is not None))
            if republished:
                self._wake()
            if done:
                return now_life

    async def run(self, connection: RedisConnection) -> None:
        """Ask every second, until cancelled, whether the connection still leads to the incarnation it was verified for.

        A primary that was made a replica, lost entries and is a primary again has cut no connection; nor has a stream
        that was deleted.
        """
        looks = 0
        while True:
            await anyio.sleep(EVERY_S)
            incarnation = connection.incarnation
            if incarnation is None or not incarnation.known or not connection.up:
                continue
            info, length = await connection.send([("INFO", "replication"), ("XLEN", self._stream)], self._deadline_s)
            if not isinstance(info, bytes):
                continue
            fields = info_fields(info)
            same = fields.get("role") == "master" and fields.get("master_replid") == incarnation.replid
            looks += 1
            shrank = isinstance(length, int) and length < self._length / 2
            self._length = length if isinstance(length, int) else 0
            if same and (shrank or looks % NOTE_EVERY == 0):
                # All must leave for the server that the settings name now, or two would hold parts of the stream.
                same = not await connection.leads_elsewhere() and await self._note(connection, incarnation)
            if not same:
                connection.distrust(incarnation)
                self._wake()  # or a relay that sleeps would not find out what was lost

    async def _ask(self, connection: RedisConnection) -> Seen | None:
        """What the connection leads to. None: that cannot be told, and entries that are lost will not be noticed."""
        try:
            seen = await ask_incarnation(connection, self._stream, self._deadline_s)
        except Forbidden as code:
            self._report(False, f"Redis refused: {code}; allow this user +info and +xinfo")
            return None
        if self._proxied:
            connection.floor = seen.end.last_id
            return None
        known = seen.incarnation.known
        self._report(known, None if known else "INFO tells no run id or replication id")
        return seen if known else None

    async def _differ(self, connection: RedisConnection, incarnation: RedisIncarnation) -> bool:
        """Whether each connection is told another run id: then it is a proxy's, and says nothing of Redis.

        A few more are opened, only when an audit is due. A failover changes what they are told once, a proxy again and
        again. Raises Unreachable when all of them lead elsewhere: this connection is one to an old primary.
        """
        told = await ask_elsewhere(connection, incarnation.run_id)
        if told == "elsewhere":
            connection.close()
            raise Unreachable("new connections lead to another Redis than the one that was opened a moment ago")
        if told != "differ":
            return False
        self._proxied = True
        connection.run_ids_differ = True
        self._report(False, PROXY)
        return True

    async def _gap(self, connection: RedisConnection, held: RedisIncarnation, noted: KnownEnd) -> Gap | None:
        """What the stream lost since Postgres noted its end, or since this connection had its last reply."""
        left = connection.left
        entries = left[1] if left is not None and left[0] == held else ()
        return (await look_for_gap(connection, noted, entries, self._deadline_s))[1]

    def _session(self) -> Session:
        if self._postgres.session is None:
            raise Unreachable("Postgres must say which incarnation of Redis holds the stream, and is not connected")
        return self._postgres.session

    async def _noted(self, incarnation: RedisIncarnation) -> KnownEnd | None:
        """What Postgres knows of the stream, if it names this incarnation already."""
        rows = await self._fetch(self._session(), load("saw_stream"), _identity(incarnation))
        return KnownEnd(self._stream, *rows[0]) if rows else None

    @asynccontextmanager
    async def _nobody_settles(self) -> AsyncIterator[None]:
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

    async def _audit(
        self, seen: Seen, gap: Gap | None, life: int | None, so_far: int
    ) -> tuple[int, bool, bool, str | None, int]:
        parameters: dict[str, object] = {
            **_identity(seen.incarnation),
            "life": life,
            "last_id": seen.end.last_id if gap is None else gap.after,
            "below": None if gap is None else gap.before,
            "newest_id": seen.end.known_id,
            "added": seen.end.added,
            "why": "another run of Redis held the stream" if gap is None else EMPTIED,
            "window_s": self._window_s,
            "at_most": self._chunk,
            "so_far": so_far,
        }
        [(republished, done, changed, was, now_life)] = await self._fetch(
            self._session(), load("audit_stream"), parameters
        )
        return republished, done, changed, was, now_life

    async def _note(self, connection: RedisConnection, incarnation: RedisIncarnation) -> bool:
        """Note in Postgres that the incarnation answered, and the end of its stream.

        False: another one holds the stream, or it has lost its end.
        """
        session, entries = self._postgres.session, connection.take_anchor()
        if session is None:
            return True
        there = True
        try:
            noted = await self._noted(incarnation)
            if noted is None or noted.life != incarnation.life:
                return False
            end, gap = await look_for_gap(connection, noted, entries, self._deadline_s)
            if connection.incarnation != incarnation:
                return True  # connected again meanwhile
            if gap is None:
                await self._write_end(session, incarnation, end, connection.address)
                return True
            there = False
        except Unreachable:
            pass
        if connection.incarnation == incarnation and entries[0] != "0-0":
            connection.anchor_id = entries[0]  # for the next look
        return there

    async def _write_end(self, session: Session, incarnation: RedisIncarnation, end: StreamEnd, address: str) -> None:
        """Note the end of the stream; and move the window on, once this process has seen its mark for so long."""
        now = monotonic()
        turn = self._turn[0] if self._turn is not None and now - self._turn[1] >= self._window_s else None
        parameters = {
            "life": incarnation.life,
            "newest_id": end.known_id,
            "added": end.added,
            "turn": turn,
            "address": address,
        }
        rows = await self._fetch(session, load("note_stream"), {**_identity(incarnation), **parameters})
        if rows and (self._turn is None or self._turn[0] != rows[0][0]):
            self._turn = (rows[0][0], now)

    async def _ask_postgres(self, sql: str, parameters: Mapping[str, object] | None) -> list[tuple[Any, ...]]:
        return await self._fetch(self._session(), sql, dict(parameters or {}))

    async def _fetch(self, session: Session, sql: str, parameters: dict[str, object]) -> list[tuple[Any, ...]]:
        try:
            return await session.fetch(sql, parameters)
        except (SessionLost, psycopg.Error) as error:
            raise Unreachable(
                f"Postgres must say which incarnation of Redis holds the stream: {describe(error)}"
            ) from None

    def _report(self, on: bool, reason: str | None) -> None:
        if on != self._on:
            self._on = on
            self._observe(AuditChanged(on, reason))


def _identity(incarnation: RedisIncarnation) -> dict[str, object]:
    return {"stream": incarnation.stream, "run_id": incarnation.run_id, "replid": incarnation.replid}
