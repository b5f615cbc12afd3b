"""`dispatcher pause` and `resume`: all dispatchers hold back, with nothing in hand, and say so."""

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import anyio
import psycopg
import pytest
from aiohttp import ClientSession
from redis.asyncio import Redis

from dispatcher.core.events import (
    Claimed,
    LayoutChanged,
    ListenerChanged,
    PauseChanged,
    Settled,
    SidecarUp,
    TakenOver,
    Ticked,
)
from dispatcher.core.pacing import FilteredScan
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.telemetry.metrics import Metrics
from dispatcher.upkeep import pause
from dispatcher.upkeep.pause import PauseWatcher
from tests.support.command import RunCommand
from tests.support.faults.pgwire import LoseNotifications
from tests.support.handlers import MakeModule
from tests.support.layouts import standing
from tests.support.proxy import StartProxy
from tests.support.rows import insert_events, read_stream, statuses
from tests.support.running import PATIENT, Running, StartDispatcher
from tests.support.waiting import becomes, until

OVERDUE = {"status": "picked", "picked_at": "2025-06-01 00:00:00+00"}


@pytest.fixture
def only_the_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause is heard of by its ring alone, or on the tick."""
    monkeypatch.setattr(pause, "READ_EVERY_S", 600.0)


async def turns(running: Running, count: int = 3) -> None:
    """Let the loop turn so often: it would have claimed by then."""
    running.tap.forget()
    for _ in range(count):
        await running.tap.next(Ticked)


async def key_is_free(db: psycopg.AsyncConnection) -> bool:
    """Whether a writer that commits now need not ring."""
    found = await (await db.execute("SELECT pg_try_advisory_xact_lock_shared(1869968482, 1)")).fetchone()
    return found == (True,)


async def sent(running: Running, rows: int) -> None:
    """Wait until so many rows were settled as sent."""
    await running.tap.add_up(Settled, sent=rows)


@pytest.mark.promise("pause")
@pytest.mark.usefixtures("only_the_ring")
@pytest.mark.parametrize("tick_ms", [50, 60_000])
async def test_an_idle_dispatcher_holds_back_and_goes_on(
    tick_ms: int, dispatcher: StartDispatcher, command: RunCommand, db: psycopg.AsyncConnection, redis: "Redis"
) -> None:
    async with dispatcher(tick_ms=tick_ms) as running:
        await insert_events(db, 2)
        await sent(running, 2)
        code, output = await command("pause", "--reason", "moving house")
        assert code == 0
        assert "Paused: 1 dispatcher acknowledged." in output
        changed = await running.tap.next(PauseChanged)
        assert (changed.paused, changed.reason) == (True, "moving house")
        await until(lambda: key_is_free(db), "the doorbell's key is let go")
        await db.execute("LISTEN outbox_doorbell")
        await insert_events(db, 3)
        if tick_ms == 50:
            await turns(running)
        assert await statuses(db) == {"sent": 2, "pending": 3}
        assert [notice async for notice in db.notifies(timeout=0)] == []  # writers need not ring
        code, output = await command("resume")
        assert (code, output.startswith("Resumed: 1 dispatcher acknowledged.\n")) == (0, True)
        await sent(running, 3)
        assert len(await read_stream(redis)) == 5
        assert not (await running.tap.next(PauseChanged)).paused


@pytest.mark.promise("pause")
@pytest.mark.usefixtures("only_the_ring")
async def test_under_load_nothing_is_in_hand_once_it_is_acknowledged(
    dispatcher: StartDispatcher, command: RunCommand, db: psycopg.AsyncConnection, redis: "Redis"
) -> None:
    async with dispatcher(batch_size=2) as running, dispatcher(batch_size=2) as other:
        await insert_events(db, 4000)
        await running.tap.next(Claimed)
        await other.tap.next(Claimed)
        code, output = await command("pause", "--json")
        assert code == 0
        answer = json.loads(output.splitlines()[0])
        assert [each["acknowledged"] for each in answer["dispatchers"]] == [True, True]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", answer["since"])
        held = await statuses(db)
        assert set(held) <= {"sent", "pending"}  # all are sent, should the command take that long
        assert len(await read_stream(redis)) == held["sent"]
        await db.execute("DELETE FROM messaging.message_outbox WHERE status = 'pending' AND id % 20 <> 0")
        left = (await statuses(db)).get("pending", 0)
        assert (await command("resume"))[0] == 0

        async def all_sent() -> bool:
            return await statuses(db) == {"sent": held["sent"] + left}

        await until(all_sent, "all are sent")
        entries = [entry["event_id"] for entry in await read_stream(redis)]
        assert len(set(entries)) == len(entries) == held["sent"] + left


@pytest.mark.promise("pause")
async def test_a_claim_that_asks_for_the_highest_id_first_is_in_flight(
    dispatcher: StartDispatcher,
    command: RunCommand,
    db: psycopg.AsyncConnection,
    handlers_module: MakeModule,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As it does where it passes over many rows for handlers."""
    execute, asks, go, done = Session._execute, anyio.Event(), anyio.Event(), anyio.Event()

    async def slow(self: Session, cursor: Any, sql: str, params: Any, *, prepare: bool) -> Any:
        if sql.startswith("-- highest_id"):
            asks.set()
            await go.wait()
        return await execute(self, cursor, sql, params, prepare=prepare)

    async def pausing() -> None:
        assert (await command("pause"))[0] == 0
        done.set()

    async def in_flight() -> int | None:
        found = await db.execute(
            "SELECT a.in_flight FROM messaging.pause_acknowledgement AS a JOIN messaging.pause AS p USING (generation)"
        )
        return next((said for (said,) in await found.fetchall()), None)

    monkeypatch.setattr(FilteredScan, "wants_highest_id", True)
    handlers = handlers_module({"mail.sent": lambda payload: None})
    async with dispatcher(handlers=handlers, tick_ms=50) as running, anyio.create_task_group() as tasks:
        await insert_events(db)
        await sent(running, 1)
        monkeypatch.setattr(Session, "_execute", slow)
        await asks.wait()
        await insert_events(db)
        tasks.start_soon(pausing)
        await becomes(lambda: is_known(in_flight), True)
        if not await in_flight():
            await done.wait()
        go.set()
        await done.wait()
        held = await statuses(db)
        await turns(running)
        assert await statuses(db) == held


async def is_known(figure: Callable[[], Awaitable[object]]) -> bool:
    """Whether there is one."""
    return await figure() is not None


async def has_said(db: psycopg.AsyncConnection) -> bool:
    """Whether a dispatcher has written down what it obeys."""
    found = await (await db.execute("SELECT count(*) FROM messaging.pause_acknowledgement")).fetchone()
    return found is not None and found[0] > 0


@pytest.mark.usefixtures("only_the_ring")
async def test_without_a_listener_the_tick_finds_it(
    dispatcher: StartDispatcher, command: RunCommand, db: psycopg.AsyncConnection, database_url: str, proxy: StartProxy
) -> None:
    through = await proxy(database_url)
    through.make_filter = LoseNotifications()
    listen_url = f"{through.via(database_url)}?sslmode=disable"
    async with dispatcher(tick_ms=50, listen_url=listen_url, wait=False) as running:
        await running.tap.next(ListenerChanged, lambda change: not change.up)
        await until(lambda: has_said(db), "it has said a first word")
        code, output = await command("pause", "--json")
        assert code == 0
        [word] = json.loads(output.splitlines()[0])["dispatchers"]
        assert word["acknowledged"]
        assert (await command("resume"))[0] == 0
        assert [each.paused for each in running.tap.all(PauseChanged)] == [True, False]
    assert (await command("pause"))[1].startswith("Paused. No dispatcher runs")


async def says_in_flight(db: psycopg.AsyncConnection, batches: int) -> bool:
    """Whether a dispatcher has answered the newest switch, with so many batches in flight."""
    found = await db.execute(
        "SELECT a.in_flight FROM messaging.pause_acknowledgement AS a JOIN messaging.pause AS p USING (generation)"
    )
    return await found.fetchall() == [(batches,)]


@pytest.mark.promise("pause")
async def test_it_waits_for_what_is_in_hand(
    dispatcher: StartDispatcher, command: RunCommand, db: psycopg.AsyncConnection, redis_url: str, proxy: StartProxy
) -> None:
    through = await proxy(redis_url)
    async with dispatcher(redis_url=through.via(redis_url), tick_ms=50, **PATIENT) as running:
        await insert_events(db, 1)
        await sent(running, 1)
        through.hold("to_client")
        await insert_events(db, 1)
        await running.tap.next(Claimed, lambda claimed: len(running.tap.all(Claimed)) == 2)
        await command("pause", "--timeout", "0")
        await until(lambda: says_in_flight(db, 1), "it says that it knows, and what it has in flight")
        code, output = await command("pause", "--timeout", "0.2")
        assert code == 1
        assert "only 0 of 1 dispatcher acknowledged within 0.2 s" in output
        assert "still has 1 batch in flight" in output
        through.let_go("to_client")
        code, output = await command("pause")
        assert code == 0
        assert "Already paused since" in output
        assert await statuses(db) == {"sent": 2}


async def test_one_that_starts_while_paused_takes_nothing(
    dispatcher: StartDispatcher, command: RunCommand, db: psycopg.AsyncConnection
) -> None:
    await command("pause")
    await insert_events(db, 2)
    async with dispatcher(tick_ms=50) as running:
        await running.tap.next(PauseChanged)
        await turns(running)
        assert await statuses(db) == {"pending": 2}
        code, output = await command("pause")
        assert (code, "Paused: 1 dispatcher acknowledged." in output) == (0, True)
        await command("resume")
        await sent(running, 2)


async def test_a_disabled_one_is_not_waited_for(dispatcher: StartDispatcher, command: RunCommand) -> None:
    async with dispatcher(enabled=False) as running:
        assert "No dispatcher runs enabled" in (await command("pause"))[1]
        assert (await running.tap.next(PauseChanged)).paused


@pytest.mark.promise("pause")
async def test_the_lost_are_taken_over_meanwhile(
    dispatcher: StartDispatcher, command: RunCommand, db: psycopg.AsyncConnection
) -> None:
    async with dispatcher(tick_ms=50) as running:
        await insert_events(db, 1)
        await sent(running, 1)
        await command("pause")
        await insert_events(db, 2, **OVERDUE)
        assert (await running.tap.next(TakenOver)).rows == 2

        async def given_back() -> bool:
            return await statuses(db) == {"sent": 1, "pending": 2}

        await until(given_back, "they wait again")


async def test_it_stays_paused_when_its_sessions_break(
    dispatcher: StartDispatcher, command: RunCommand, db: psycopg.AsyncConnection
) -> None:
    async with dispatcher(tick_ms=50) as running:
        await command("pause")
        running.tap.forget()
        await db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name LIKE 'dispatcher %' AND pid <> pg_backend_pid()"
        )
        await running.tap.next(ListenerChanged, lambda change: change.up)
        await insert_events(db, 2)
        await turns(running)
        assert await statuses(db) == {"pending": 2}
        assert (await command("resume"))[0] == 0
        await sent(running, 2)


@asynccontextmanager
async def silent(db: psycopg.AsyncConnection, name: str, version: str) -> AsyncIterator[None]:
    """A dispatcher that lives and says nothing: frozen, or of an older release."""
    cursor = await db.execute(
        "INSERT INTO messaging.dispatcher (name, version) VALUES (%s, %s) RETURNING id", [name, version]
    )
    [(number,)] = await cursor.fetchall()
    await db.execute("SELECT pg_advisory_lock(1869968483, %s::integer)", [number])
    yield
    await db.execute("SELECT pg_advisory_unlock(1869968483, %s::integer)", [number])


@pytest.mark.promise("pause")
async def test_who_says_nothing_is_named(
    command: RunCommand, db: psycopg.AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.ops.pause.DOUBT_S", 0.5)
    async with silent(db, "old", "0.0.1"), silent(db, "frozen", "9"):
        await db.execute(
            "INSERT INTO messaging.pause_acknowledgement (name, generation, in_flight, seen_at) "
            "VALUES ('frozen', 0, 0, now() - interval '1 minute'), ('dead', 0, 0, now() - interval '1 minute')"
        )
        code, output = await command("pause", "--timeout", "0")
        assert code == 1
        assert "only 0 of 3 dispatchers acknowledged" in output
        assert "old: it has never answered; version 0.0.1" in output
        assert re.search(r"frozen: no answer for \d\d+ s", output)
        assert re.search(r"dead: no answer for \d\d+ s: dead, or cut off from Postgres", output)  # so soon nobody knows
        code, output = await command("pause", "--timeout", "1")
        assert (code, "dead" in output) == (1, False)  # it was watched
    code, output = await command("pause")
    assert code == 0
    assert "No dispatcher runs" in output


NOTE = "INSERT INTO messaging.pause_acknowledgement (name, generation, in_flight, seen_at) VALUES ('one', 0, 0, %s)"


@pytest.mark.promise("clock", "pause")
@pytest.mark.parametrize("ahead", [timedelta(hours=-1), timedelta(hours=1)])
async def test_one_without_a_lock_is_waited_for_though_the_clock_was_set(
    command: RunCommand, db: psycopg.AsyncConnection, ahead: timedelta
) -> None:
    await db.execute(NOTE, [datetime.now(UTC) + ahead])

    async def paused() -> bool:
        return bool(await (await db.execute("SELECT FROM messaging.pause")).fetchall())

    async with anyio.create_task_group() as tasks:

        async def obey() -> None:
            await until(paused, "it is paused")
            await db.execute("UPDATE messaging.pause_acknowledgement SET in_flight = 1, seen_at = clock_timestamp()")
            await db.execute("SELECT pg_sleep(0.3)")  # it works on what it has in flight
            await db.execute("UPDATE messaging.pause_acknowledgement SET generation = 1, in_flight = 0")

        tasks.start_soon(obey)
        code, output = await command("pause")
    assert (code, "Paused: 1 dispatcher acknowledged." in output) == (0, True)


@pytest.mark.promise("pause")
async def test_who_may_live_is_named_when_the_time_is_too_short_to_tell(
    command: RunCommand, db: psycopg.AsyncConnection
) -> None:
    """It was left out, and the command returned 0."""
    await db.execute(NOTE, [datetime.now(UTC) - timedelta(minutes=1)])
    code, output = await command("pause", "--timeout", "0")
    assert (code, bool(re.search(r"one: no answer for \d\d+ s: dead, or cut off", output))) == (1, True)
    code, output = await command("pause", "--timeout", "0", "--json")
    assert (code, [each["name"] for each in json.loads(output)["dispatchers"]]) == (1, ["one"])


@pytest.mark.promise("clock", "pause")
@pytest.mark.parametrize("ahead", [timedelta(hours=-1), timedelta(0), timedelta(hours=1)])
async def test_a_dead_one_without_a_lock_is_not_waited_for_long(
    command: RunCommand, db: psycopg.AsyncConnection, monkeypatch: pytest.MonkeyPatch, ahead: timedelta
) -> None:
    monkeypatch.setattr("dispatcher.ops.pause.DOUBT_S", 0.5)
    monkeypatch.setattr("dispatcher.ops.pause.LATELY_S", 1.0)
    await db.execute(NOTE, [datetime.now(UTC) + ahead])
    code, output = await command("pause")
    assert (code, "No dispatcher runs enabled" in output) == (0, True)


async def test_somebody_resumes_while_it_waits(command: RunCommand, db: psycopg.AsyncConnection) -> None:
    async def paused() -> bool:
        return bool(await (await db.execute("SELECT FROM messaging.pause")).fetchall())

    async with silent(db, "old", "0.0.1"), anyio.create_task_group() as tasks:

        async def ada() -> None:
            await until(paused, "it is paused")
            await db.execute(
                "UPDATE messaging.pause SET paused = false, generation = generation + 1, changed_by = 'ada'"
            )

        tasks.start_soon(ada)
        code, output = await command("pause")
    assert code == 1
    assert "ada resumed all dispatchers meanwhile" in output


async def test_not_migrated_and_no_right(command: RunCommand, db: psycopg.AsyncConnection, database_url: str) -> None:
    await db.execute("CREATE ROLE stranger_to_pause LOGIN")
    try:
        code, output = await command("pause", DATABASE_URL=f"{database_url}?user=stranger_to_pause")
        assert code == 2
        assert "outbox_dispatcher" in output
    finally:
        await db.execute("DROP ROLE stranger_to_pause")
    await db.execute("DROP TABLE messaging.pause")
    code, output = await command("pause")
    assert code == 2
    assert "20250203_message_outbox: run `dispatcher migrate` first" in output


async def test_probes_go_on_and_a_metric_says_so(dispatcher: StartDispatcher, command: RunCommand) -> None:
    await command("pause")
    async with dispatcher(tick_ms=50, http_enabled=True, http_host="127.0.0.1", http_port=0) as running:
        up = await running.tap.next(SidecarUp)
        await running.tap.next(PauseChanged)
        metrics: Metrics = running.service._metrics
        assert metrics.registry.get_sample_value("messaging_dispatch_paused") == 1
        async with ClientSession() as client, client.get(f"http://{up.host}:{up.port}/ready") as answer:
            assert answer.status == 200, await answer.text()
        await command("resume")
        await running.tap.next(PauseChanged)
        assert metrics.registry.get_sample_value("messaging_dispatch_paused") == 0


async def test_it_is_not_ready_before_switch_and_layout_were_read(
    dispatcher: StartDispatcher, db: psycopg.AsyncConnection
) -> None:
    """It claims nothing until then, and another layout may stand: a rollout would go on with one that never claims."""
    async with AsyncExitStack() as stack:
        async with db.transaction():
            await db.execute("LOCK TABLE messaging.layout IN ACCESS EXCLUSIVE MODE")
            running = await stack.enter_async_context(dispatcher(tick_ms=50))
            assert running.service.not_ready == "starting"
            assert not running.tap.all(LayoutChanged)
        assert await running.tap.next(LayoutChanged) == LayoutChanged(None, first=True)
        assert running.service.not_ready is None


async def test_it_waits_when_postgres_goes_before_the_last_word(db: psycopg.AsyncConnection, database_url: str) -> None:
    link = ReconnectingSession(PostgresTarget(database_url, "test"), "lane", rng=Random(1))
    unfinished, asked = 1, 0

    def count() -> int:
        nonlocal asked
        asked += 1
        assert asked < 1000, "it asks without ever waiting, and nothing else gets a turn"
        return unfinished

    async def said() -> list[int]:
        rows = await db.execute("SELECT in_flight FROM messaging.pause_acknowledgement WHERE name = 'one'")
        return [row[0] for row in await rows.fetchall()]

    await db.execute("INSERT INTO messaging.pause (generation, paused) VALUES (1, true)")
    switch = PauseWatcher(
        "one",
        [link],
        control=ReconnectingSession(PostgresTarget(database_url, "test"), "control", rng=Random(1)),
        tick_s=0.05,
        changed=lambda: None,
        layout=standing(),
        observe=lambda event: None,
    )
    async with anyio.create_task_group() as tasks:
        async with anyio.create_task_group() as connected:
            await connected.start(link.keep)
            tasks.start_soon(switch.run, count)

            async def unsettled() -> bool:
                return await said() == [1]

            await until(unsettled, "it says that something is in hand")
            unfinished, asked = 0, 0  # settled, and Postgres is gone before that is written down
            connected.cancel_scope.cancel()
        switch.note_claim_ended()
        await anyio.wait_all_tasks_blocked()
        await tasks.start(link.keep)

        async def obeyed() -> bool:
            return await said() == [0]

        await until(obeyed, "it says that nothing is in hand any more")
        tasks.cancel_scope.cancel()
