"""The audit after a loss of Redis: entries that Redis acknowledged and lost are published again.

A failover, or a restart without the end of the append-only file, loses entries whose rows say `sent`. Another
incarnation (run id or replication id) is the sign of it. No dispatcher publishes to it until the rows whose entry id is
above its newest one are put back: a single new entry would move that id past the lost ones. The whole argument:
docs/explanation/decisions/0008.
"""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import psycopg

from dispatcher.core.decide import Refused
from dispatcher.core.errors import SessionLost, Unreachable
from dispatcher.core.events import AuditChanged, Observer, Republished
from dispatcher.core.incarnation import RedisIncarnation
from dispatcher.infra.postgres import locks
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session, describe
from dispatcher.infra.redis.connection import RedisConnection
from dispatcher.infra.sqlfiles import load

CHUNK = 20_000  # rows put back in one statement, well within its timeout; settles wait as long
EVERY_S = 1.0
NOTE_EVERY = 5  # checks; the audit's window grows by the age of the last note (messaging.stream_server.seen_at)


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

    async def verify(self, connection: RedisConnection, *, holds: RedisIncarnation | None = None) -> RedisIncarnation:
        """The incarnation that this connection leads to; once this returns, Postgres names it as the stream's holder.

        `holds`: what another open connection of ours was verified to lead to; for the same one Postgres is not asked.
        Raises Unreachable while nothing may be published there: a replica, a server that loads, Postgres away.
        """
        incarnation, _, last_id = await self._ask(connection)
        if not incarnation.known:
            return incarnation
        # Once a replica, a primary may have dropped entries: those to come may be older than the known ones.
        connection.floor = last_id
        if incarnation == holds or await self._holds(incarnation):
            return incarnation
        # A dispatcher that does not know of the new incarnation yet may publish to it, and settle, after we asked for
        # the newest entry. Under the lock nobody settles: rows that say `sent` and are newer than that entry are lost.
        async with self._nobody_settles():
            now, replid2, last_id = await self._ask(connection)
            if now != incarnation:
                raise Unreachable("another incarnation of Redis holds the stream than a moment ago")
            connection.floor = last_id
            await self._audit_all(incarnation, replid2, last_id)
        return incarnation

    async def _audit_all(self, incarnation: RedisIncarnation, replid2: str, last_id: str) -> None:
        while True:
            republished, done, changed, was = await self._audit(incarnation, last_id)
            if changed and (republished or done):
                promoted = was == replid2
                self._observe(
                    Republished(republished, "a replica was promoted" if promoted else "it is another incarnation")
                )
            if republished:
                self._wake()
            if done:
                return

    async def run(self, connection: RedisConnection) -> None:
        """Ask every second, until cancelled, whether the connection still leads to the incarnation it was verified for.

        A primary that was made a replica, lost entries and is a primary again has cut no connection.
        """
        looks = 0
        while True:
            await anyio.sleep(EVERY_S)
            incarnation = connection.incarnation
            if incarnation is None or not incarnation.known or not connection.up:
                continue
            [info] = await connection.send([("INFO", "replication")], self._deadline_s)
            if not isinstance(info, bytes):
                continue
            fields = _fields(info)
            same = fields.get("role") == "master" and fields.get("master_replid") == incarnation.replid
            looks += 1
            if same and looks % NOTE_EVERY == 0:
                same = await self._note(incarnation)
            if not same:
                connection.distrust(incarnation)
                self._wake()  # or a relay that sleeps would not find out what was lost

    async def _ask(self, connection: RedisConnection) -> tuple[RedisIncarnation, str, str]:
        """Ask Redis: the incarnation, the replication id that it had as a replica, the newest entry id."""
        replies = await connection.send(
            [("INFO", "server"), ("INFO", "replication"), ("XINFO", "STREAM", self._stream)], self._deadline_s
        )
        for reply in replies:
            if isinstance(reply, Refused) and reply.text.startswith(("NOPERM", "ERR unknown")):
                self._report(False, f"Redis refused: {reply.text.split(' ', 1)[0]}; allow this user +info and +xinfo")
                return RedisIncarnation(self._stream), "", ""
        about, replication, stream = replies
        if not isinstance(about, bytes) or not isinstance(replication, bytes):
            raise Unreachable(_why(about) if not isinstance(about, bytes) else _why(replication))
        fields = _fields(about) | _fields(replication)
        if fields.get("role") not in (None, "master"):
            raise Unreachable("Redis is a replica: it takes no entries until it is promoted")
        if isinstance(stream, list):
            last_id = dict(zip(stream[::2], stream[1::2], strict=False)).get(b"last-generated-id", b"0-0").decode()
        elif isinstance(stream, Refused) and "no such key" in stream.text:
            last_id = "0-0"
        else:
            raise Unreachable(_why(stream))  # a server that loads, taken for an empty one, would double everything
        incarnation = RedisIncarnation(self._stream, fields.get("run_id", ""), fields.get("master_replid", ""))
        self._report(incarnation.known, None if incarnation.known else "INFO tells no run id or replication id")
        return incarnation, fields.get("master_replid2", ""), last_id

    def _session(self) -> Session:
        if self._postgres.session is None:
            raise Unreachable("Postgres must say which incarnation of Redis holds the stream, and is not connected")
        return self._postgres.session

    async def _holds(self, incarnation: RedisIncarnation) -> bool:
        """Whether Postgres names this incarnation already."""
        return bool(await self._fetch(self._session(), load("saw_stream"), _identity(incarnation)))

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

    async def _audit(self, incarnation: RedisIncarnation, last_id: str) -> tuple[int, bool, bool, str | None]:
        parameters = {"last_id": last_id, "window_s": self._window_s, "at_most": self._chunk, **_identity(incarnation)}
        session = self._session()
        [(republished, done, changed, was)] = await self._fetch(session, load("audit_stream"), parameters)
        return republished, done, changed, was

    async def _note(self, incarnation: RedisIncarnation) -> bool:
        """Note in Postgres that the incarnation answered. False: another one holds the stream."""
        session = self._postgres.session
        if session is None:
            return True
        try:
            return bool(await self._fetch(session, load("saw_stream"), _identity(incarnation)))
        except Unreachable:
            return True

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


def _fields(info: bytes) -> dict[str, str]:
    """`name:value` lines of INFO."""
    return dict(re.findall(r"^(\w+):(.*?)\r?$", info.decode(errors="replace"), re.MULTILINE))


def _why(reply: object) -> str:
    return reply.text[:200] if isinstance(reply, Refused) else str(getattr(reply, "error", "no answer to INFO"))
