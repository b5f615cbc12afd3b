"""What a sample sees in Postgres and in the stream."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import anyio
import psycopg
import pytest
from redis.asyncio import Redis
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry

from dispatcher.core.errors import SessionLost
from dispatcher.core.events import Sampled
from dispatcher.core.process_state import HeldCount
from dispatcher.embedded import free_port
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.redis.info import GroupInfo, StreamInfo, read_stream_info
from dispatcher.infra.sqlfiles import load
from dispatcher.stages.claim import PROOF_EVENT_TYPE
from dispatcher.upkeep.gauges import DeadLookup, GaugesBounds, GaugesTiming, HeldLookup, Lookups, run, sample_once
from dispatcher.upkeep.registry import Registry
from tests.integration.test_held import add, fail
from tests.support.dead_letters import bury, insert_copies
from tests.support.postgres import unopened
from tests.support.reads import blocks_read
from tests.support.rows import STREAM, insert_events
from tests.support.tap import Tap

PICKED: dict[str, Any] = {"status": "picked", "picked_at": datetime.now(UTC), "picked_by": 1, "claim_id": uuid4()}
NOW = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
async def session(database_url: str) -> AsyncIterator[Session]:
    session = await connect(PostgresTarget(database_url, "dispatcher"), "gauges")
    yield session
    await session.close()


async def sample(session: Session, redis: Redis, tap: Tap) -> Sampled:
    await sample_once(session.fetch, redis, (STREAM,), tap, now=NOW)
    return await tap.next(Sampled)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


async def test_nothing_there(session, redis, tap):
    seen = await sample(session, redis, tap)
    assert (seen.backlog, seen.oldest_age_s, seen.stream_length, seen.group_lag, seen.redis_error) == (
        0,
        0,
        0,
        {},
        None,
    )


async def test_what_is_settled_is_no_backlog(session, db, redis, tap):
    for status in ("pending", "retry", "sent", "dead"):
        await insert_events(db, 2, status=status)
    await insert_events(db, 2, **PICKED)
    assert (await sample(session, redis, tap)).backlog == 6


async def test_proof_events_that_were_left_behind_are_no_backlog(session, db, redis, tap):
    await insert_events(db, 4, event_type=PROOF_EVENT_TYPE)
    await insert_events(db, 3)
    assert (await sample(session, redis, tap)).backlog == 3


async def test_the_count_stops_at_its_bound(session, db):
    await insert_events(db, 20)
    [(backlog, _, _)] = await session.fetch(load("sample"), {"bound": 7, "now": None})
    assert backlog == 7


async def test_age_is_how_long_the_oldest_is_overdue(session, db, redis, tap):
    await insert_events(db, next_run_at=ago(5), occurred_at=ago(5))
    await insert_events(db, next_run_at=ago(30), occurred_at=ago(30), status="sent")
    assert (await sample(session, redis, tap)).oldest_age_s == 5
    await insert_events(db, next_run_at=ago(12), occurred_at=ago(12), **PICKED)
    assert (await sample(session, redis, tap)).oldest_age_s == 12


async def test_what_is_scheduled_for_later_is_not_late(session, db, redis, tap):
    await insert_events(db, next_run_at=ago(-60), occurred_at=ago(3600))
    assert (await sample(session, redis, tap)).oldest_age_s == 0


async def test_what_failed_is_as_old_as_its_event(session, db, redis, tap):
    await insert_events(db, next_run_at=ago(-30), occurred_at=ago(100), attempts=3, status="retry")
    assert (await sample(session, redis, tap)).oldest_age_s == 100


async def test_without_a_time_postgress_clock_counts(session, db, redis, tap):
    await insert_events(db, next_run_at=datetime.now(UTC) - timedelta(hours=1))
    await sample_once(session.fetch, redis, (STREAM,), tap)
    assert 3600 <= (await tap.next(Sampled)).oldest_age_s < 4000


@pytest.mark.both_versions
async def test_the_notification_queue_is_asked(session, db, redis, tap, database_url):
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as deaf:
        await deaf.execute("LISTEN hall")
        await deaf.execute("BEGIN")  # a listener in a transaction holds the queue's tail
        await deaf.execute("SELECT 1")
        await db.execute("SELECT count(pg_notify('hall', i || repeat('x', 7000))) FROM generate_series(1, 3000) AS i")
        assert (await sample(session, redis, tap)).notification_queue_usage > 0


async def test_the_length_and_what_each_group_has_to_read(session, redis, tap):
    for number in range(10):
        await redis.xadd(STREAM, {"n": number})
    await redis.xgroup_create(STREAM, "behind", "0")
    await redis.xgroup_create(STREAM, "there", "$")
    await redis.xreadgroup("behind", "c", {STREAM: ">"}, count=4)
    seen = await sample(session, redis, tap)
    assert (seen.stream_length, seen.group_lag) == (10, {"behind": 6, "there": 0})
    stream = await read_stream_info(redis, STREAM)
    assert stream == StreamInfo(10, (GroupInfo("behind", 6, 4, 1), GroupInfo("there", 0, 0, 0)))


async def test_a_group_whose_lag_the_server_cannot_tell(session, redis, tap):
    ids = [await redis.xadd(STREAM, {"n": number}) for number in range(10)]
    await redis.xgroup_create(STREAM, "middle", ids[4])
    await redis.xgroup_create(STREAM, "holes", "0")
    await redis.xdel(STREAM, ids[7])
    assert [group.get("lag") for group in await redis.xinfo_groups(STREAM)] == [None, None]
    seen = await sample(session, redis, tap)
    assert seen.group_lag == {"middle": 4, "holes": 9}  # counted
    await redis.xreadgroup("holes", "c", {STREAM: ">"})
    assert (await sample(session, redis, tap)).group_lag["holes"] == 0


async def test_names_and_ids_are_read_from_a_client_that_does_not_decode(redis_url, redis):
    await redis.xadd(STREAM, {"n": 1}, id="5-1")
    await redis.xadd(STREAM, {"n": 1}, id="5-3")
    await redis.xgroup_create(STREAM, "größe", "5-2")
    async with Redis.from_url(redis_url) as raw:
        assert await read_stream_info(raw, STREAM) == StreamInfo(2, (GroupInfo("größe", 1, 0, 0),))


async def test_the_groups_are_a_bounded_number(session, redis, tap):
    await redis.xadd(STREAM, {"n": 1})
    await redis.xgroup_create(STREAM, "done", "$")
    for name in "abc":
        await redis.xgroup_create(STREAM, name, "0")
    await sample_once(session.fetch, redis, (STREAM,), tap, bounds=GaugesBounds(groups=2))
    assert (await tap.next(Sampled)).group_lag == {"a": 1, "b": 1}


async def test_redis_away_is_part_of_the_sample(session, db, tap):
    await insert_events(db, 3)
    async with Redis.from_url(f"redis://127.0.0.1:{free_port()}", retry=Retry(NoBackoff(), 0)) as away:
        seen = await sample(session, away, tap)
    assert (seen.backlog, seen.stream_length, seen.group_lag) == (3, None, {})
    assert seen.redis_error == "ConnectionError"


async def test_a_key_that_is_no_stream_is_named_by_its_code(session, redis, tap):
    await redis.set(STREAM, "text")
    assert (await sample(session, redis, tap)).redis_error == "ResponseError WRONGTYPE"


async def test_a_lost_session_is_the_callers_to_know(session, redis, tap, db):
    await db.execute("SELECT pg_terminate_backend(%s)", [session.backend_pid])
    with pytest.raises(SessionLost):
        await sample_once(session.fetch, redis, (STREAM,), tap)
    assert tap.all(Sampled) == []


async def test_sampling_goes_on_after_a_failure(session, redis_url, tap):
    failures = [
        SessionLost("gone"),
        psycopg.errors.QueryCanceled("statement timeout"),
        psycopg.errors.InsufficientPrivilege("a right that was taken away"),
    ]

    async def fetch(sql, params):
        if failures:
            raise failures.pop()
        return await session.fetch(sql, params)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: run(fetch, lambda: redis_url, "gauges", (STREAM,), tap, timing=GaugesTiming(0.0, 0.0)))
        await tap.next(Sampled)
        tasks.cancel_scope.cancel()
    assert failures == []


async def test_the_dispatchers_that_run(session, redis, tap):
    await Registry("ours", unopened()).enrol(session)
    [one] = (await sample(session, redis, tap)).dispatchers
    assert one.name == "ours"
    assert abs(one.started_at - datetime.now(UTC).timestamp()) < 60


async def made_dead(db, n: int = 1) -> list[int]:
    """Dead rows, each with its open copy."""
    ids = await insert_events(db, n, status="dead", last_error="redis: ERR")
    await db.execute(
        "INSERT INTO messaging.message_dlq (outbox_id, event_id, message_id, event_type, aggregate_type, aggregate_id,"
        " payload, attempts, occurred_at) SELECT id, event_id, message_id, event_type, aggregate_type, aggregate_id,"
        " payload, attempts, occurred_at FROM messaging.message_outbox WHERE id = ANY(%s)",
        [ids],
    )
    return ids


async def test_what_is_dead_and_since_when(session, db, redis, tap):
    first, again, pruned = await made_dead(db, 3)
    # A row that was sent, replayed by hand and died then; one that somebody marked dead, so that it has no copy.
    await db.execute("UPDATE messaging.message_outbox SET sent_at = clock_timestamp() WHERE id = %s", [again])
    await insert_events(db, status="dead")
    replayed = "UPDATE messaging.message_outbox SET status = 'pending' WHERE id = %s"
    await db.execute(replayed, [first])
    await db.execute("DELETE FROM messaging.message_outbox WHERE id = %s", [pruned])
    await sample_once(session.fetch, redis, (STREAM,), tap)
    seen = await tap.next(Sampled)
    assert seen.dead == 3
    assert seen.newest_dead_at is not None
    assert abs(seen.newest_dead_at - datetime.now(UTC).timestamp()) < 60


async def test_what_the_dead_died_of_is_asked_again_when_another_one_died(session, db, redis, tap):
    gauge, first = DeadLookup(), await insert_events(db, 3)
    await bury(db, first, "KeyError: 1")
    await bury(db, await insert_events(db, 2), "redis: ERR")
    asked: list[str] = []

    async def fetch(statement: str, parameters: Any) -> Any:
        asked.append(statement)
        return await session.fetch(statement, parameters)

    for _ in range(2):
        await sample_once(fetch, redis, (STREAM,), tap, lookups=Lookups(dead=gauge))
        seen = await tap.next(Sampled)
        assert seen.dead_groups is not None
        assert (seen.dead_groups.errors, seen.dead_groups.most, seen.dead_groups.error) == (2, 3, "KeyError: 1")
        assert seen.newest_dead_at is not None
        assert seen.dead_groups.since < seen.newest_dead_at
    assert asked.count(load("dead_stats")) == 1
    await bury(db, await insert_events(db, 1), "another")
    await sample_once(fetch, redis, (STREAM,), tap, lookups=Lookups(dead=gauge))
    seen = await tap.next(Sampled)
    assert seen.dead_groups is not None
    assert seen.dead_groups.errors == 3


async def test_a_copy_that_was_replayed_is_not_the_newest_dead(session, db, redis, tap):
    await made_dead(db)
    await db.execute("UPDATE messaging.message_dlq SET replayed_at = clock_timestamp()")
    await db.execute("UPDATE messaging.message_outbox SET status = 'pending'")
    await sample_once(session.fetch, redis, (STREAM,), tap)
    seen = await tap.next(Sampled)
    assert (seen.dead, seen.newest_dead_at) == (0, None)


async def test_the_count_of_the_dead_is_bounded(session, db, redis, tap):
    await made_dead(db, 5)
    await sample_once(session.fetch, redis, (STREAM,), tap, bounds=GaugesBounds(dead=3))
    assert (await tap.next(Sampled)).dead == 3


@pytest.mark.both_versions
@pytest.mark.parametrize("analyzed", [False, True])
async def test_the_count_of_the_dead_walks_through_no_rows_without_end(db, analyzed: bool) -> None:
    """It bounded what it found and not what it read, every five seconds."""
    await insert_events(db, 20_000, status="sent")  # by hand, without a sent_at
    await insert_copies(db, await insert_events(db, 20_000))  # put back by hand, which leaves the copies open
    [newest] = await insert_events(db, 1)
    await bury(db, [newest])
    if analyzed:
        await db.execute("ANALYZE messaging.message_outbox, messaging.message_dlq")
    assert await blocks_read(db, load("count_dead"), {"bound": 100}) < 20_000
    [(dead, _)] = await (await db.execute(load("count_dead").encode(), {"bound": 100})).fetchall()
    assert dead == 1


@pytest.mark.promise("console")
async def test_a_redis_that_forbids_the_sample_is_not_away(session, tap):
    class Forbids(Redis):
        async def xlen(self, name: Any) -> int:
            raise NoPermissionError("this user has no permissions to run the 'xlen' command")

    await sample_once(session.fetch, Forbids(), (STREAM,), tap)
    seen = await tap.next(Sampled)
    assert (seen.stream_length, seen.redis_error) == (None, None)


async def test_held_aggregates_are_counted_where_there_is_an_order_and_only_as_often_as_the_backlog(
    session, db, redis, tap
):
    head, *_ = await add(db, "a", 2)
    dead, *_ = await add(db, "b", 2)
    await fail(db, head, error="ERR tried")
    await bury(db, [dead], "ERR dead")
    statements: list[str] = []

    async def fetch(sql: str, params: Any = None) -> Any:
        statements.append(sql.split(":")[0])
        return await session.fetch(sql, params)

    async def held(gauge: HeldLookup | None, known: int | None = None) -> HeldCount | None:
        await sample_once(fetch, redis, (STREAM,), tap, lookups=Lookups(held=gauge), known=known)
        sampled: Sampled = await tap.next(Sampled)
        return sampled.held

    assert await held(None) is None
    assert not any("held" in each for each in statements), "without an order nothing is asked"
    going_on = HeldLookup(hold=False)
    counted = await held(going_on)
    assert counted is not None
    assert (counted.aggregates, counted.by_dead, counted.error) == (1, 0, "ERR tried")
    assert 0 < counted.oldest_s < 600
    again = await held(HeldLookup(hold=True))
    assert again is not None
    assert (again.aggregates, again.by_dead) == (2, 1)
    await db.execute("DELETE FROM messaging.message_outbox")
    assert await held(going_on, known=2) == counted, "while the count of the backlog rests, this one does"
    assert await held(going_on) == HeldCount()


TIMES = ["infinity", "-infinity", "20000-01-01", "0044-03-15 BC"]
TRIED = "status = 'retry', attempts = 1, next_run_at = clock_timestamp() + interval '1 hour', "


@pytest.mark.both_versions
@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize(
    "changed",
    [
        "occurred_at = '{}'",
        "next_run_at = '{}'",
        TRIED + "occurred_at = '{}', picked_at = NULL",
        TRIED + "picked_at = '{}'",
    ],
)
async def test_a_row_with_a_time_that_python_lacks_hides_no_figure(session, redis, tap, db, changed, time):
    """Postgres 16 refuses to subtract an infinite time: while the row was unsettled, all figures were missing."""
    await insert_events(db, 3)
    await db.execute("SET session_replication_role = replica")
    await db.execute(f"UPDATE messaging.message_outbox SET {changed.format(time)} WHERE id = 2".encode())
    lookups = Lookups(held=HeldLookup(hold=True))
    await sample_once(session.fetch, redis, (STREAM,), tap, lookups=lookups)
    seen = await tap.next(Sampled)
    assert seen.backlog == 3
    assert 0 <= seen.oldest_age_s < 1e11
    assert seen.retrying is not None
    assert all(abs(each or 0) < 1e12 for each in (seen.retrying.next_at, seen.retrying.overdue_s, seen.retrying.since))
    assert seen.held is not None
    for owned in (False, True):
        parameters = {"slots": 256, "proof_events": False, "usage": False, "lows": [0], "highs": [255]}
        await session.fetch(load("due_check", owned=owned), parameters)
