"""The whole dispatcher in this process: from a commit to the stream and back to `sent`, through stops and outages."""

import asyncio
import signal
from datetime import UTC
from typing import Any

import anyio
import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.core.errors import Misconfigured
from dispatcher.core.events import (
    BreakerChanged,
    Claimed,
    DatabaseChanged,
    ListenerChanged,
    Published,
    Reconciled,
    Settled,
    Slept,
    Started,
    Stopped,
    Stopping,
    TakenOver,
    Ticked,
    Woke,
)
from dispatcher.service import Service, lifecycle, run
from dispatcher.service.process import run_to_the_end
from dispatcher.settings import Settings
from dispatcher.stages import claim
from tests.support.handlers import MakeModule
from tests.support.postgres import StartPostgres
from tests.support.proxy import StartProxy
from tests.support.redis import StartValkey
from tests.support.rows import insert_events, read_stream, read_table, statuses
from tests.support.running import StartDispatcher
from tests.support.tap import Tap
from tests.support.waiting import becomes

Db = psycopg.AsyncConnection[Any]


@pytest.mark.promise("one-entry")
async def test_a_committed_row_is_in_the_stream_and_sent(dispatcher: StartDispatcher, db: Db, redis: Redis) -> None:
    async with dispatcher() as running:
        await running.tap.next(Slept, where=lambda slept: slept.holds_key)
        [row] = await insert_events(db, headers='{"traceparent": "00-1"}', payload='{"b": 2, "a": "é"}')
        await running.tap.add_up(Settled, sent=1)
        assert "notify" in [woke.cause for woke in running.tap.all(Woke)]
    [entry] = await read_stream(redis)
    [table] = await read_table(db)
    assert (table["id"], table["status"], table["attempts"]) == (row, "sent", 0)
    assert table["stream_id"] == entry.pop("stream_id")
    assert table["sent_at"] >= table["occurred_at"]
    assert entry == {
        "event_id": str(table["event_id"]),
        "message_id": str(table["message_id"]),
        "event_type": "order.created",
        "aggregate_type": "message",
        "aggregate_id": "a1",
        "occurred_at": table["occurred_at"].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "payload": '{"a": "é", "b": 2}',
        "headers": '{"traceparent": "00-1"}',
    }
    [published] = running.tap.all(Published)
    assert published.entries == len(published.ages_s) == 1


@pytest.mark.promise("order")
async def test_a_backlog_goes_out_in_order_and_once(dispatcher: StartDispatcher, db: Db, redis: Redis) -> None:
    rows = 3000
    ids = await insert_events(db, rows)
    async with dispatcher(batch_size=100) as running:
        await running.tap.add_up(Settled, sent=rows)
    assert await statuses(db) == {"sent": rows}
    by_event = {str(row["event_id"]): row["id"] for row in await read_table(db)}
    assert [by_event[entry["event_id"]] for entry in await read_stream(redis)] == ids
    assert all(claimed.rows <= 100 for claimed in running.tap.all(Claimed))


@pytest.mark.promise("one-owner")
async def test_two_dispatchers_share_without_doubling(dispatcher: StartDispatcher, db: Db, redis: Redis) -> None:
    rows = 4000
    await insert_events(db, rows)
    async with dispatcher(batch_size=50) as one, dispatcher(batch_size=50) as two:
        left = rows
        with anyio.fail_after(60):
            async with anyio.create_task_group() as watching:

                async def count(tap: Tap) -> None:
                    nonlocal left
                    while left > 0:
                        settled = await tap.next(Settled)
                        left -= settled.sent
                    watching.cancel_scope.cancel()

                watching.start_soon(count, one.tap)
                watching.start_soon(count, two.tap)
    events = [entry["event_id"] for entry in await read_stream(redis)]
    assert len(events) == len(set(events)) == rows
    assert sum(event.lost for each in (one, two) for event in each.tap.all(Settled)) == 0


@pytest.mark.promise("disabled")
async def test_disabled_takes_nothing(dispatcher: StartDispatcher, db: Db, redis: Redis) -> None:
    await insert_events(db)
    async with dispatcher(enabled=False, tick_ms=1) as running:
        await running.tap.next(DatabaseChanged, where=lambda event: event.up)
    assert await statuses(db) == {"pending": 1}
    assert running.tap.all(Ticked) == []


@pytest.mark.promise("canary")
async def test_a_canary_takes_only_its_slots(dispatcher: StartDispatcher, db: Db) -> None:
    rows = 500
    await insert_events(db, rows)
    table = await read_table(db)
    share = [row for row in table if row["slot"] < 64]
    async with dispatcher(canary_percent=25) as running:
        await running.tap.add_up(Settled, sent=len(share))
        await running.tap.next(Slept, where=lambda slept: slept.holds_key)
    assert [row["id"] for row in await read_table(db) if row["status"] == "sent"] == [row["id"] for row in share]


async def test_a_canary_that_is_rung_for_others_passes_the_ring_on(dispatcher: StartDispatcher, db: Db) -> None:
    async with dispatcher(canary_percent=0) as canary:
        await canary.tap.next(Slept, where=lambda slept: slept.holds_key)
        async with dispatcher() as full:
            await full.tap.next(Slept, where=lambda slept: not slept.holds_key)
            await insert_events(db)
            await full.tap.add_up(Settled, sent=1)  # its tick is a minute away
    assert canary.tap.all(Claimed) == []


@pytest.mark.promise("too-large")
async def test_a_payload_over_the_cap_is_dead_at_once_and_harms_nobody(dispatcher: StartDispatcher, db: Db) -> None:
    [large] = await insert_events(db, payload='"' + "x" * 2000 + '"')
    await insert_events(db, 3)
    async with dispatcher(max_payload_bytes=1000) as running:
        event = await running.tap.next(Settled)
    assert (event.sent, event.dead) == (3, 1)
    [buried] = await read_table(db, "message_dlq")
    assert (buried["outbox_id"], buried["attempts"]) == (large, 1)
    assert buried["last_error"] == "payload is 2002 bytes, DISPATCH_MAX_PAYLOAD_BYTES allows 1000"


@pytest.mark.promise("too-large")
async def test_a_row_that_postgres_cannot_write_as_text_is_dead_and_holds_up_nobody(
    dispatcher: StartDispatcher, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred kilobytes at the insert, more than a gigabyte in the answer to a claim: refused for every row of it."""
    monkeypatch.setattr(claim, "ONE_BY_ONE_S", 600.0)  # on a slow machine it would be given back in between
    await insert_events(db, 2)
    [poison] = await insert_events(db, payload=f"[{','.join(['1e131071'] * 9000)}]")
    await insert_events(db, 2)
    async with dispatcher(lease_ms=3_600_000) as running:
        event = await running.tap.next(Settled)
    assert (event.sent, event.dead) == (4, 1)
    copies = await (await db.execute("SELECT outbox_id, attempts, last_error FROM messaging.message_dlq")).fetchall()
    error = "Postgres cannot write the event as text: more than a gigabyte, or characters that UTF-8 lacks"
    assert copies == [(poison, 1, error)]


@pytest.mark.promise("stop")
async def test_a_stop_under_load_leaves_nothing_claimed(dispatcher: StartDispatcher, db: Db, redis: Redis) -> None:
    await insert_events(db, 5000)
    async with dispatcher(batch_size=20) as running:
        await running.tap.next(Settled)
        running.service.stop("test")
        await running.tap.next(Stopped)
    counts = await statuses(db)
    assert set(counts) <= {"sent", "pending"}
    assert counts["sent"] == len(await read_stream(redis))
    assert running.service.exit_code == 0
    assert await read_table(db, "dispatcher") == []


async def test_stop_is_idempotent_and_may_come_at_any_time(dispatcher: StartDispatcher, db: Db) -> None:
    for _ in range(20):
        async with dispatcher(wait=False) as running:
            running.service.stop("at once")
            running.service.stop("again")
    cursor = await db.execute(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name LIKE 'dispatcher %'"
    )
    assert await cursor.fetchone() == (0,)


async def test_a_signal_after_a_stop_of_ours_forces_nothing(database_url: str, redis_url: str, db: Db) -> None:
    """A worker whose supervisor was killed hears of it twice, in either order: by its socket and by the kernel."""
    tap = Tap()
    service = Service(settings(database_url=database_url, redis_url=redis_url), tap)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_to_the_end, service)
        await tap.next(Started)
        service.stop("the supervisor is gone")
        signal.raise_signal(signal.SIGTERM)
    assert service.exit_code == 0
    assert await read_table(db, "dispatcher") == []


async def test_a_second_signal_says_that_it_ended_at_once(
    database_url: str, redis_url: str, handlers_module: MakeModule, db: Db
) -> None:
    """The log said `Stopped, given_back 0`, as of a stop that left nothing behind."""
    begun = asyncio.Event()

    async def endless(payload: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    tap = Tap()
    name = handlers_module({"endless": endless})
    service = Service(settings(database_url=database_url, redis_url=redis_url, handlers=name), tap)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_to_the_end, service)
        await tap.next(Started)
        await insert_events(db, event_type="endless")
        await begun.wait()
        signal.raise_signal(signal.SIGTERM)
        await tap.next(Stopping)
        signal.raise_signal(signal.SIGTERM)
        stopped = await tap.next(Stopped)
    assert service.exit_code == 1
    assert stopped.cut_short == "a second signal"
    assert await statuses(db) == {"picked": 1}


@pytest.mark.promise("postgres-outage")
async def test_terminated_sessions_cost_nothing(dispatcher: StartDispatcher, db: Db, redis: Redis) -> None:
    rows = 3000
    async with dispatcher(batch_size=50) as running:
        await insert_events(db, rows)
        await running.tap.next(Settled)
        await db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name LIKE 'dispatcher %%'"
        )
        await running.tap.next(ListenerChanged, where=lambda event: not event.up)
        await becomes(lambda: statuses(db), {"sent": rows})  # one may be sent whose answer was lost
        await running.tap.next(ListenerChanged, where=lambda event: event.up)
    events = [entry["event_id"] for entry in await read_stream(redis)]
    assert len(events) == len(set(events)) == rows


@pytest.mark.promise("postgres-outage")
async def test_the_answer_of_a_claim_is_lost(
    dispatcher: StartDispatcher, db: Db, redis: Redis, proxy: StartProxy, database_url: str
) -> None:
    through = await proxy(database_url)
    async with dispatcher(database_url=through.via(database_url), query_timeout_ms=500, tick_ms=50) as running:
        await running.tap.next(Slept, where=lambda slept: slept.holds_key)
        through.drop_replies()
        await insert_events(db, 5)
        await running.tap.next(Ticked, where=lambda tick: tick.result == "error", timeout=60)
        await through.restore()
        await running.tap.add_up(Settled, sent=5)
    assert len(await read_stream(redis)) == 5
    assert await statuses(db) == {"sent": 5}


@pytest.mark.promise("lost-reply")
async def test_the_reply_of_redis_is_lost_and_nothing_is_doubled(
    dispatcher: StartDispatcher, db: Db, redis: Redis, proxy: StartProxy, redis_url: str
) -> None:
    through = await proxy(redis_url)
    async with dispatcher(redis_url=through.via(redis_url), publish_timeout_ms=1000) as running:
        await running.tap.next(Slept, where=lambda slept: slept.holds_key)
        through.drop_replies()
        await insert_events(db, 7)
        await running.tap.next(BreakerChanged, where=lambda event: event.state == "open")
        await through.restore()
        assert (await running.tap.next(Reconciled)).found == 7
        await running.tap.add_up(Settled, sent=7)
    events = [entry["event_id"] for entry in await read_stream(redis)]
    assert len(events) == len(set(events)) == 7
    assert {row["attempts"] for row in await read_table(db)} == {0}


@pytest.mark.promise("redis-outage")
async def test_redis_goes_and_comes_back(dispatcher: StartDispatcher, db: Db, own_valkey: StartValkey) -> None:
    valkey = own_valkey(appendonly=True)
    async with dispatcher(redis_url=valkey.url) as running:
        await insert_events(db)
        await running.tap.add_up(Settled, sent=1)
        valkey.crash()
        await running.tap.next(BreakerChanged, where=lambda event: event.state == "open")
        await insert_events(db, 10)
        await asyncio.to_thread(valkey.start)
        await running.tap.next(BreakerChanged, where=lambda event: event.state == "closed")
        await running.tap.add_up(Settled, sent=10)
    table = await read_table(db)
    assert {(row["status"], row["attempts"]) for row in table} == {("sent", 0)}


@pytest.mark.promise("redis-outage")
async def test_a_full_redis_buries_nothing(dispatcher: StartDispatcher, db: Db, own_valkey: StartValkey) -> None:
    valkey = own_valkey()
    async with Redis.from_url(valkey.url) as client, dispatcher(redis_url=valkey.url, max_attempts=1) as running:
        await client.config_set("maxmemory", 1)
        await insert_events(db, 10)
        opened = await running.tap.next(BreakerChanged, where=lambda event: event.state == "open")
        assert "OOM" in str(opened.reason)
        await running.tap.next(Settled, where=lambda event: event.released == 10)
        await running.tap.next(Settled, where=lambda event: event.released == 1)  # a trial takes one row only
        await client.config_set("maxmemory", 0)
        await running.tap.next(BreakerChanged, where=lambda event: event.state == "closed")
        await becomes(lambda: statuses(db), {"sent": 10})
    assert {row["attempts"] for row in await read_table(db)} == {0}


async def test_postgres_comes_late(
    dispatcher: StartDispatcher, own_postgres: StartPostgres, redis: Redis, database_url: str
) -> None:
    from dispatcher.infra.postgres.migrations import migrate

    server = own_postgres()
    url = server.url()
    await migrate(url)
    server.stop()
    async with dispatcher(database_url=url, wait=False) as running:
        down = await running.tap.next(DatabaseChanged)
        assert not down.up
        assert "nothing listens" in str(down.reason)
        await asyncio.to_thread(server.start)
        await running.tap.next(Started)
        await running.tap.next(ListenerChanged, where=lambda event: event.up)
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await insert_events(connection)
        await running.tap.add_up(Settled, sent=1)
    assert len(await read_stream(redis)) == 1


@pytest.mark.promise("frozen")
async def test_claims_that_stood_still_come_back(dispatcher: StartDispatcher, db: Db) -> None:
    [row] = await insert_events(db)
    await db.execute(
        "UPDATE messaging.message_outbox SET status = 'picked', picked_at = clock_timestamp() - interval '1 h', "
        "claim_id = gen_random_uuid() WHERE id = %s",
        (row,),
    )
    async with dispatcher(tick_ms=20, lease_ms=1000) as running:
        assert (await running.tap.next(TakenOver)).rows == 1
        await running.tap.add_up(Settled, sent=1)


def settings(**changes: Any) -> Settings:
    base: dict[str, Any] = {
        "enabled": True,
        "http_enabled": False,
        "log_level": "CRITICAL",
        "connect_timeout_ms": 60_000,
    }
    return Settings(**(base | changes))


@pytest.mark.promise("setup-errors")
async def test_a_missing_table_says_what_to_do(empty_database_url: str, redis_url: str) -> None:
    with pytest.raises(
        Misconfigured,
        match=r"there is no outbox in .*: run `dispatcher migrate` first, or the application's own migration",
    ):
        await run(settings(database_url=empty_database_url, redis_url=redis_url))


@pytest.mark.promise("setup-errors")
async def test_a_role_without_rights_is_told_which(database_url: str, redis_url: str, db: Db) -> None:
    await db.execute("DROP ROLE IF EXISTS nobody_much")
    await db.execute("CREATE ROLE nobody_much LOGIN")
    await db.execute("GRANT USAGE ON SCHEMA messaging TO nobody_much")
    url = database_url.replace("postgres@", "nobody_much@")
    try:
        with pytest.raises(Misconfigured, match=r"lacks .*SELECT on messaging.message_outbox; .*dispatcher sql roles"):
            await run(settings(database_url=url, redis_url=redis_url))
    finally:
        await db.execute("DROP OWNED BY nobody_much")
        await db.execute("DROP ROLE nobody_much")


async def test_a_stream_of_another_type_is_refused(database_url: str, redis_url: str, redis: Redis) -> None:
    await redis.set("sanctum:messages", "a string")
    with pytest.raises(Misconfigured, match="is not a stream"):
        await run(settings(database_url=database_url, redis_url=redis_url))


@pytest.mark.promise("secrets")
async def test_an_unknown_database_is_refused_without_the_password(database_url: str, redis_url: str) -> None:
    head, _, _ = database_url.rpartition("/")
    with pytest.raises(Misconfigured, match="does not exist") as refused:
        await run(
            settings(database_url=head.replace("postgres@", "postgres:s3cret@") + "/no_such", redis_url=redis_url)
        )
    assert "s3cret" not in str(refused.value)


async def test_a_dead_task_stops_the_service(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tap = Tap()
    service = Service(settings(database_url=database_url, redis_url=redis_url), tap)

    async def die(*_: object) -> None:
        await tap.next(Started)
        raise RuntimeError("gauges died")

    monkeypatch.setattr(lifecycle, "run_gauges", die)
    with pytest.raises(ExceptionGroup) as stopped, anyio.fail_after(60):
        await service.run()
    assert stopped.group_contains(RuntimeError, match="gauges died", depth=1) or "gauges died" in repr(stopped.value)
