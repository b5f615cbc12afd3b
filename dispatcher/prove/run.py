"""The proof from end to end: open, send, disturb, wait, count, clean up, judge."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import SystemRandom

import anyio
import psycopg

from dispatcher.core.counted import counted
from dispatcher.core.errors import Misconfigured, SessionLost
from dispatcher.core.events import Observer
from dispatcher.demo.screen import Screen
from dispatcher.demo.tally import Tally
from dispatcher.demo.verdict import late
from dispatcher.infra.postgres import locks
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.pause import read_layout
from dispatcher.ops.session import ask
from dispatcher.prove.relay import ProofRelay
from dispatcher.prove.traffic import DEADLINE_S, Disturber, Ledger, ProofProducer, read_stream, refuse_foreign
from dispatcher.service.targets import PostgresTargets
from dispatcher.settings import Settings
from dispatcher.stages.claim import PROOF_EVENT_TYPE

PRODUCERS = 4
GRACE_S = 20.0  # for what is missing after the last commit
SHOW_EVERY_S = 0.2
CLEAN_S = 10.0
CHUNK = 1000  # event ids of one statement


@dataclass(frozen=True, slots=True)
class ProofPlan:
    """What to send. `rate`: events a second."""

    rate: float
    seconds: float
    stream: str
    disturb: bool


@dataclass(frozen=True, slots=True)
class Proof:
    """What came of it. `statuses`: rows by status at the end. `left`: what could not be cleaned up."""

    tally: Tally
    unknown: int
    statuses: dict[str, int]
    disturbed: tuple[str, ...]
    refused: tuple[str, ...]
    left: tuple[str, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """What is against it; none: it is proven."""
        tally, sent = self.tally, self.statuses.get("sent", 0)
        unsent = sum(self.statuses.values()) - sent
        checks = (
            (tally.committed == 0, "nothing was committed"),
            (tally.lost > 0, f"{counted(tally.lost, 'committed event')} never reached the stream"),
            (tally.duplicated > 0, f"{counted(tally.duplicated, 'entry')} came into the stream a second time"),
            (unsent > 0, f"{counted(unsent, 'row')} not marked sent: {self.statuses}"),
            late(tally.latency),
        )
        return tuple(reason for against, reason in checks if against)


async def prove(settings: Settings, plan: ProofPlan, screen: Screen, observe: Observer) -> Proof:
    """Raises Misconfigured or Unreachable when it cannot begin; proof events are removed then too."""
    where = PostgresTargets(settings, "prove").direct()
    layout = await ask(where, "prove", lambda session: read_layout(session.fetch))
    relay = ProofRelay(settings, plan.stream, layout, observe)
    ledger, disturber = Ledger(), Disturber(relay)
    targets = PostgresTargets(settings, f"prove {relay.name}")
    producers = [ReconnectingSession(targets.database, f"prove-{n}", rng=SystemRandom()) for n in range(PRODUCERS)]
    producer = ProofProducer(producers, ledger)
    done = anyio.Event()
    statuses: dict[str, int] = {}
    left: tuple[str, ...] = ()
    async with anyio.create_task_group() as tasks:
        for postgres in producers:
            await tasks.start(postgres.keep)
        try:
            async with relay.running():
                await _refuse_another(relay)
                await refuse_foreign(relay.reader, plan.stream)
                try:
                    async with anyio.create_task_group() as beside:
                        beside.start_soon(read_stream, relay.reader, plan.stream, ledger, done.is_set)
                        beside.start_soon(_show, screen, ledger, done)
                        async with anyio.create_task_group() as disturbing:
                            if plan.disturb:
                                disturbing.start_soon(disturber.run)
                            await producer.run(plan.rate, plan.seconds)
                            disturbing.cancel_scope.cancel()
                        await _until_nothing_is_missing(ledger)
                        statuses = await _statuses(producers[0], ledger)
                        done.set()
                finally:  # also after Ctrl-C, and when a user in Redis may not do what it takes
                    with anyio.CancelScope(shield=True):
                        left = await _clean(relay, producers[0], plan.stream, ledger)
        finally:
            screen.close()
            tasks.cancel_scope.cancel()
    return Proof(
        ledger.tally, ledger.unknown, statuses, tuple(disturber.done), tuple(sorted(disturber.refused)), tuple(left)
    )


async def _refuse_another(relay: ProofRelay) -> None:
    """Raise Misconfigured while another one runs: each would delete what the other has yet to count."""
    session = await relay.sessions.chores.get()
    if session.pooled:
        return  # the lock would stay in the pool
    [(alone,)] = await session.fetch(f"SELECT pg_try_advisory_lock({locks.PROVING})")
    if not alone:
        raise Misconfigured("another `dispatcher prove` runs on this outbox: wait for its end")


async def _show(screen: Screen, ledger: Ledger, done: anyio.Event) -> None:
    began = time.monotonic()
    while not done.is_set():
        screen.progress(ledger.tally, time.monotonic() - began)
        await anyio.sleep(SHOW_EVERY_S)


async def _until_nothing_is_missing(ledger: Ledger) -> None:
    """Returns when all have come, or when nothing has come for the grace."""
    matched, quiet_since = ledger.tally.matched, time.monotonic()
    while ledger.tally.lost and time.monotonic() - quiet_since < GRACE_S:
        await anyio.sleep(0.05)
        if ledger.tally.matched != matched:
            matched, quiet_since = ledger.tally.matched, time.monotonic()


async def _statuses(postgres: ReconnectingSession, ledger: Ledger) -> dict[str, int]:
    """Rows by status, once none is being settled any more."""
    began, counted = time.monotonic(), dict[str, int]()
    while time.monotonic() - began < GRACE_S:
        session = await postgres.get()
        counted = {}
        with suppress(SessionLost, psycopg.Error):
            for ids in _chunks(ledger.ids):
                for status, rows in await session.fetch(load("prove_rows"), {"event_ids": ids}):
                    counted[status] = counted.get(status, 0) + rows
            if set(counted) <= {"sent", "dead"}:
                break
        await anyio.sleep(0.1)
    return counted


async def _clean(relay: ProofRelay, postgres: ReconnectingSession, stream: str, ledger: Ledger) -> tuple[str, ...]:
    """Delete the rows, then the stream: a row could still go out. What is left, with the words of the server."""
    why, left = "no answer", []
    with anyio.move_on_after(CLEAN_S), suppress(SessionLost):
        session = await postgres.get()
        try:
            for number, ids in enumerate(_chunks(ledger.ids) or [[]]):
                parameters = {"event_ids": ids, "event_type": PROOF_EVENT_TYPE, "of_others": number == 0}
                await session.fetch(load("prove_clean"), parameters)
            why = ""
        except psycopg.Error as error:
            why = str(error.sqlstate)
    if why:
        left.append(f"{counted(len(ledger.ids), 'row')} of the type {PROOF_EVENT_TYPE}, until they are pruned ({why})")
    [reply] = await relay.reader.send([("DEL", stream)], DEADLINE_S)
    if not isinstance(reply, int):
        left.append(f"the stream {stream}: redis-cli DEL {stream} ({getattr(reply, 'text', 'no answer')})")
    return tuple(left)


def _chunks(ids: Sequence[str]) -> list[list[str]]:
    return [list(ids[first : first + CHUNK]) for first in range(0, len(ids), CHUNK)]
