"""What commits proof events, what reads their stream, and what disturbs the relay between them."""

import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

import anyio
import psycopg

from dispatcher.core.decide import Refused
from dispatcher.core.errors import DispatcherError, Misconfigured, SessionLost, Unreachable
from dispatcher.demo.tally import Tally
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.redis.connection import RedisConnection, client_name
from dispatcher.infra.redis.replies import ids_named
from dispatcher.infra.sqlfiles import load
from dispatcher.prove.relay import ProofRelay
from dispatcher.stages.claim import PROOF_EVENT_TYPE

PAGE = 500  # entries of one read
READ_EVERY_S = 0.002
DEADLINE_S = 10.0
DISTURB_EVERY_S = 3.0
TEXT = "x" * 300  # what a small event has


@dataclass(slots=True)
class Ledger:
    """What was committed and what came. `unknown`: inserts whose answer was lost, so that they may be committed."""

    tally: Tally = field(default_factory=Tally)
    ids: list[str] = field(default_factory=list)
    unknown: int = 0


class ProofProducer:
    """Commits `rate` proof events a second, each in a transaction of its own that is on disk when it is counted."""

    def __init__(self, sessions: Sequence[ReconnectingSession], ledger: Ledger) -> None:
        self._sessions = sessions
        self._ledger = ledger
        self._number = 0
        for postgres in sessions:
            postgres.prepare(_durable)

    async def run(self, rate: float, seconds: float) -> None:
        """Returns when all are committed. However slow a commit is, none is left out."""
        began, total = time.monotonic(), max(1, round(rate * seconds))

        async def commit(postgres: ReconnectingSession) -> None:
            while self._number < total:
                number, self._number = self._number, self._number + 1
                await anyio.sleep(max(0.0, began + number / rate - time.monotonic()))
                await self._commit(postgres, number)

        async with anyio.create_task_group() as tasks:
            for postgres in self._sessions:
                tasks.start_soon(commit, postgres)

    async def _commit(self, postgres: ReconnectingSession, number: int) -> None:
        event_id = str(uuid4())
        row = {"event_id": event_id, "event_type": PROOF_EVENT_TYPE, "json": json.dumps({"n": number, "text": TEXT})}
        session = await postgres.get()
        try:
            self._ledger.ids.append(event_id)
            await session.fetch(load("prove_insert"), row)
        except SessionLost:
            self._ledger.unknown += 1
        except psycopg.Error as error:
            raise Misconfigured(f"a proof event was refused: {error.diag.message_primary} ({error.sqlstate})") from None
        else:
            self._ledger.tally.add_committed([(time.perf_counter_ns(), event_id.encode())])


async def _durable(session: Session) -> None:
    await session.fetch("SET synchronous_commit = on")


async def refuse_foreign(connection: RedisConnection, stream: str) -> None:
    """Raise Misconfigured when the stream has entries or consumer groups of others: it is deleted at the end.

    Raises Unreachable when that cannot be told.
    """
    ends = ("XRANGE", stream, "-", "+", "COUNT", "1"), ("XREVRANGE", stream, "+", "-", "COUNT", "1")
    *pages, groups = await connection.send([*ends, ("XINFO", "GROUPS", stream)], DEADLINE_S)
    for page in pages:
        _require_right(page, stream)
        if not isinstance(page, list):
            raise Unreachable(f"the stream {stream} cannot be read: {getattr(page, 'text', 'no answer')}")
    entries = [fields for page in pages for _, fields in page]
    foreign = any(
        dict(zip(f[::2], f[1::2], strict=False)).get(b"event_type") != PROOF_EVENT_TYPE.encode() for f in entries
    )
    if foreign or (isinstance(groups, list) and groups):
        raise Misconfigured(
            f"the stream {stream} holds what is not of `dispatcher prove`, which deletes it at the end: "
            "choose another key with --stream-name"
        )


def _require_right(page: object, stream: str) -> None:
    if isinstance(page, Refused) and page.text.startswith("NOPERM"):
        raise Misconfigured(
            f"Redis refused: {page.text}. Allow this user the stream of the proof events, "
            f"~{stream}, or choose one with --stream-name"
        )


async def read_stream(connection: RedisConnection, stream: str, ledger: Ledger, until: Callable[[], bool]) -> None:
    """Note each entry of the stream from its begin on, until `until()` and the end of it. Raises Misconfigured."""
    after = "0-0"
    while True:
        ending = until()
        try:
            if not connection.up:
                await connection.connect()
            [page] = await connection.send([("XRANGE", stream, _next(after), "+", "COUNT", str(PAGE))], DEADLINE_S)
        except DispatcherError:
            await anyio.sleep(0.1)
            continue
        now = time.perf_counter_ns()
        _require_right(page, stream)
        entries = page if isinstance(page, list) else []
        if entries:
            after = entries[-1][0].decode()
            names = [dict(zip(fields[::2], fields[1::2], strict=False)).get(b"event_id", b"") for _, fields in entries]
            ledger.tally.add_received([(now, names)])
        elif ending:
            return
        if len(entries) < PAGE:
            await anyio.sleep(READ_EVERY_S)


def _next(stream_id: str) -> str:
    milliseconds, _, sequence = stream_id.partition("-")
    return f"{milliseconds}-{int(sequence) + 1}"


class Disturber:
    """Ends one connection of the relay every few seconds, in turn: each session to Postgres, then that to Redis."""

    def __init__(self, relay: ProofRelay) -> None:
        self._relay = relay
        self.done: list[str] = []  # what was ended, in order
        self.refused: set[str] = set()  # what may not be ended here, with the server's words

    async def run(self) -> None:
        """Until cancelled."""
        names = ["control", *(f"lane-{n}" for n in range(len(self._relay.sessions.lanes)))]
        steps: list[tuple[str, Callable[[], Awaitable[bool]]]] = [
            *(
                (f"session {name}", self._ends(postgres))
                for name, postgres in zip(names, self._relay.kept, strict=True)
            ),
            ("connection to Redis", self._end_redis),
        ]
        while True:
            for name, end in steps:
                await anyio.sleep(DISTURB_EVERY_S)
                if await end():
                    self.done.append(name)

    def _ends(self, postgres: ReconnectingSession) -> Callable[[], Awaitable[bool]]:
        async def end() -> bool:
            session, other = postgres.session, self._relay.sessions.chores.session
            if session is None or other is None:
                return False
            try:
                [(ended,)] = await other.fetch("SELECT pg_terminate_backend(%(pid)s)", {"pid": session.backend_pid})
            except (SessionLost, psycopg.Error) as error:
                self.refused.add(f"pg_terminate_backend: {getattr(error, 'sqlstate', error)}")
                return False
            return bool(ended)

        return end

    async def _end_redis(self) -> bool:
        [reply] = await self._relay.reader.send([("CLIENT", "LIST")], DEADLINE_S)
        if not isinstance(reply, bytes):
            self.refused.add(f"CLIENT LIST: {getattr(reply, 'text', 'no answer')}")
            return False
        ids = ids_named({client_name(self._relay.name)}, reply.decode(errors="replace"))
        for client in ids:
            await self._relay.reader.send([("CLIENT", "KILL", "ID", client)], DEADLINE_S)
        return bool(ids)
