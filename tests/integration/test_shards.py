"""Many streams: each event in the one key of its type and slot, found there after a lost reply, a loss and a crash."""

import json
import time
from collections import Counter
from typing import Any

import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.core.events import CrashAudited, LayoutChanged, Reconciled, Republished, Sampled, Settled
from dispatcher.core.incarnation import stream_order
from dispatcher.core.layout import Layout, Route
from tests.support.clock import StartClockedValkey
from tests.support.command import HearCommand
from tests.support.proxy import Direction, StartProxy
from tests.support.rows import STREAM, insert_events, one_row, read_stream, read_table
from tests.support.running import StartDispatcher
from tests.support.waiting import until

ROUTES = (Route("invoice.*", "invoices"), Route("order.*", "orders"))
LAYOUT = Layout(STREAM, 8, ROUTES)
SHARDED: dict[str, Any] = {"stream_shards": 8, "routes": ROUTES}


async def all_entries(redis: Redis, layout: Layout = LAYOUT) -> dict[str, list[dict[str, str]]]:
    return {key: await read_stream(redis, key) for key in layout.keys}


async def each_once_in_its_key(db: Any, redis: Redis, layout: Layout = LAYOUT) -> None:
    rows = {str(row["event_id"]): row for row in await read_table(db)}
    entries = [(key, entry) for key, found in (await all_entries(redis, layout)).items() for entry in found]
    assert Counter(entry["event_id"] for _, entry in entries) == Counter(list(rows))
    for key, entry in entries:
        row = rows[entry["event_id"]]
        assert key == layout.key_of(row["event_type"], row["slot"])
        assert (row["status"], row["stream"], row["stream_id"]) == ("sent", key, entry["stream_id"])


async def some_of_each(db: Any, each: int = 100) -> None:
    for event_type in ("order.created", "invoice.sent", "other"):
        await insert_events(db, each, event_type=event_type)


@pytest.mark.promise("layout")
@pytest.mark.both_versions
async def test_each_event_goes_to_the_key_of_its_type_and_slot(
    dispatcher: StartDispatcher, db: Any, redis: Redis
) -> None:
    async with dispatcher(**SHARDED) as running:
        await some_of_each(db)
        await running.tap.add_up(Settled, sent=300)
    await each_once_in_its_key(db, redis)
    assert not await redis.exists(STREAM, "orders", "invoices")
    assert sum(bool(found) for found in (await all_entries(redis)).values()) == 24


async def test_routes_without_shards_keep_the_names_and_the_slot_is_not_asked(
    dispatcher: StartDispatcher, db: Any, redis: Redis
) -> None:
    layout = Layout(STREAM, 1, ROUTES)
    async with dispatcher(routes=ROUTES) as running:
        await some_of_each(db)
        await running.tap.add_up(Settled, sent=300)
    entries = await all_entries(redis, layout)
    assert {key: len(found) for key, found in entries.items()} == {STREAM: 100, "invoices": 100, "orders": 100}


async def test_a_lost_reply_is_looked_for_in_each_stream(
    dispatcher: StartDispatcher, db: Any, redis: Redis, redis_url: str, proxy: StartProxy
) -> None:
    """They are lost from the entries on: a lane that asks Redis before its claim would wait for that answer."""
    between = await proxy(redis_url)
    begin = False

    def lose_from_the_entries_on(direction: Direction, data: bytes) -> bytes:
        if begin and direction == "to_server" and b"XADD" in data:
            between.drop_replies()
        return data

    between.make_filter = lambda: lose_from_the_entries_on
    async with dispatcher(**SHARDED, redis_url=between.via(redis_url)) as running:
        await some_of_each(db, 1)
        await running.tap.add_up(Settled, sent=3)
        begin = True
        async with db.transaction():  # one claim takes them all, and waits for their replies
            await some_of_each(db, 20)
        await until(lambda: some_arrived(redis, 63), "the entries are in their streams")
        begin = False
        await between.restore()
        await running.tap.add_up(Settled, sent=60)
        assert sum(each.found for each in running.tap.all(Reconciled)) > 0
    await each_once_in_its_key(db, redis)


async def test_a_lost_reply_is_found_though_redis_s_clock_stepped_back_before_the_entries(
    dispatcher: StartDispatcher, db: Any, clocked_valkey: StartClockedValkey, proxy: StartProxy
) -> None:
    """The floor was read from the clock: the entries came below it, were not found, and were published again."""
    server, set_clock = clocked_valkey()
    through = await proxy(server.url)
    async with Redis.from_url(server.url, decode_responses=True) as redis:
        async with dispatcher(**SHARDED, redis_url=through.via(server.url)) as running:
            await some_of_each(db, 1)
            await running.tap.add_up(Settled, sent=3)
            through.hold("to_client")
            set_clock(-30)
            async with db.transaction():
                await some_of_each(db, 20)
            await until(lambda: some_arrived(redis, 63), "the entries are in their streams")
            through.cut()
            await through.restore()
            await running.tap.add_up(Settled, sent=60)
        await each_once_in_its_key(db, redis)


async def test_what_is_noted_for_a_crash_of_postgres_follows_redis_s_clock_back(
    dispatcher: StartDispatcher, db: Any, clocked_valkey: StartClockedValkey
) -> None:
    """Entries that came below it would not be found after a crash, and be published again."""
    server, set_clock = clocked_valkey()
    noted = "SELECT 1 FROM messaging.newest_entry WHERE messaging.stream_order(stream_id) {} messaging.stream_order(%s)"
    async with (
        Redis.from_url(server.url, decode_responses=True) as redis,
        dispatcher(**SHARDED, redis_url=server.url) as running,
    ):
        await some_of_each(db, 1)
        await running.tap.add_up(Settled, sent=3)
        an_hour_ago = f"{int((time.time() - 3600) * 1000)}-0"
        await until(lambda: one_row(db, noted.format(">"), an_hour_ago), "what is noted is of today")
        set_clock(-7200)
        await some_of_each(db, 20)
        await running.tap.add_up(Settled, sent=60)
        entries = [entry["stream_id"] for found in (await all_entries(redis)).values() for entry in found]
        lowest = min(entries, key=stream_order)
        await until(lambda: one_row(db, noted.format("<"), lowest), "what is noted is below all entries")


async def some_arrived(redis: Redis, wanted: int) -> bool:
    return sum(len(found) for found in (await all_entries(redis)).values()) >= wanted


async def test_a_stream_that_loses_its_end_is_published_again_and_no_other(
    dispatcher: StartDispatcher, db: Any, redis: Redis
) -> None:
    async with dispatcher(**SHARDED) as running:
        await some_of_each(db)
        await running.tap.add_up(Settled, sent=300)
        key = LAYOUT.key_of("order.created", 200)
        lost = await redis.xlen(key)
        assert lost
        await redis.delete(key)
        again = await running.tap.next(Republished)
        assert (again.rows, again.same_server) == (lost, True)
        await running.tap.add_up(Settled, sent=lost)
    await each_once_in_its_key(db, redis)


async def test_after_a_crash_of_postgres_all_streams_are_searched(
    dispatcher: StartDispatcher, db: Any, redis: Redis
) -> None:
    async with dispatcher(**SHARDED) as running:
        await some_of_each(db)
        await running.tap.add_up(Settled, sent=300)
    await db.execute(
        "UPDATE messaging.message_outbox SET status = 'pending', sent_at = NULL, stream_id = NULL, stream = NULL, "
        "claim_id = NULL, picked_at = NULL, picked_by = NULL"
    )
    await db.execute("UPDATE messaging.newest_entry SET stream_id = '0-0'")
    await db.execute("DELETE FROM messaging.unbroken")
    async with dispatcher(**SHARDED) as running:
        assert (await running.tap.next(CrashAudited)).found == 300
        await insert_events(db, 1)
        await running.tap.add_up(Settled, sent=1)
    await each_once_in_its_key(db, redis)


async def test_the_gauges_name_each_stream(dispatcher: StartDispatcher, db: Any, redis: Redis) -> None:
    await redis.xgroup_create("orders:{0}", "g", "0", mkstream=True)
    async with dispatcher(**SHARDED) as running:
        await some_of_each(db)
        await running.tap.add_up(Settled, sent=300)
        length = await redis.xlen("orders:{0}")

        async def sampled() -> bool:
            return any(each.stream_length == 300 for each in running.tap.all(Sampled))

        await until(sampled, "a sample of all streams")
        sample = running.tap.all(Sampled)[-1]
        assert [each.name for each in sample.streams] == list(LAYOUT.keys)
        [one] = [each for each in sample.streams if each.name == "orders:{0}"]
        assert (one.length, one.group_lag, sample.group_lag) == (length, {"g": length}, {"g": length})


@pytest.mark.promise("layout")
async def test_a_layout_that_differs_claims_nothing_and_goes_on_by_itself(
    dispatcher: StartDispatcher, db: Any, redis: Redis
) -> None:
    async with dispatcher(**SHARDED) as first:
        await insert_events(db, 10)
        await first.tap.add_up(Settled, sent=10)
    async with dispatcher(stream_shards=4, routes=ROUTES, tick_ms=20) as other:
        assert "dispatcher layout" in ((await other.tap.next(LayoutChanged)).reason or "")
        assert "dispatcher layout" in (other.service.not_ready or "")
        await insert_events(db, 10)
        async with dispatcher(**SHARDED) as second:
            await second.tap.add_up(Settled, sent=10)
    assert not other.tap.all(Settled)
    await each_once_in_its_key(db, redis)


# The layout in Postgres.

SETTINGS = ("--stream-shards", "8", "--routes", "invoice.*=invoices,order.*=orders")
# What the release before layouts runs.
CLAIMABLE_BEFORE = "SELECT FROM ONLY messaging.unbroken AS u WHERE u.xmin = u.marked"
MARK_BEFORE = (
    "INSERT INTO messaging.unbroken AS u DEFAULT VALUES "
    "ON CONFLICT (one) DO UPDATE SET marked = excluded.marked WHERE u.xmin <> u.marked"
)


async def test_a_shell_without_the_routes_of_the_dispatchers_is_told_to_set_nothing(
    dispatcher: StartDispatcher, db: Any, heard: HearCommand
) -> None:
    async def asked() -> tuple[str, str]:
        found = json.loads((await heard("doctor", "--json"))[1])["findings"]
        [doctor] = [each["level"] for each in found if each["check"] == "layout"]
        return doctor, (await heard("layout"))[1]

    async with dispatcher(**SHARDED) as running:
        await insert_events(db, 10)
        await running.tap.add_up(Settled, sent=10)
        doctor, said = await asked()
        assert doctor == "ok"
        assert "layout set" not in said
        assert "dispatchers that run have the layout that stands" in said
    doctor, said = await asked()  # nobody runs: who starts one from this shell is to know
    assert doctor == "warning"
    assert "layout set" in said


@pytest.fixture
def layout(heard: HearCommand, database_url: str, redis_url: str) -> Any:
    """Runs `dispatcher layout ... --json`; its exit code and its answer."""

    async def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        code, output, said = await heard(
            "layout", *arguments, DATABASE_URL=database_url, REDIS_URL=redis_url, DISPATCH_STREAM_NAME=STREAM
        )
        return code, json.loads(output) if output.startswith("{") else {"said": output + said}

    return run


@pytest.mark.promise("layout")
async def test_shards_are_added_while_it_runs(dispatcher: StartDispatcher, db: Any, redis: Redis, layout: Any) -> None:
    await redis.xgroup_create(STREAM, "g", "0", mkstream=True)
    async with dispatcher(tick_ms=20) as before, dispatcher(tick_ms=20, **SHARDED) as after:
        await after.tap.next(LayoutChanged)
        await before.tap.next(LayoutChanged)  # that it is its own, at the start
        await some_of_each(db)
        await before.tap.add_up(Settled, sent=300)
        code, answer = await layout("set", *SETTINGS, "--yes", "--json")
        assert (code, answer["agrees"], answer["stands"]) == (0, True, LAYOUT.spec())
        assert answer["former"][STREAM]["length"] == 300
        assert [group["lag"] for group in answer["former"][STREAM]["groups"]] == [300]
        assert (await after.tap.next(LayoutChanged)).reason is None
        await before.tap.next(LayoutChanged)
        assert "dispatcher layout" in (before.service.not_ready or "")
        await some_of_each(db)
        await after.tap.add_up(Settled, sent=300)
    entries = {STREAM: await read_stream(redis, STREAM), **await all_entries(redis)}
    rows = {str(row["event_id"]): row for row in await read_table(db)}
    found = [(key, entry["event_id"]) for key, of in entries.items() for entry in of]
    assert Counter(event for _, event in found) == Counter(list(rows))
    assert {(key == STREAM, rows[event]["stream"]) for key, event in found if key == STREAM} == {(True, None)}
    assert all(rows[event]["stream"] == key for key, event in found if key != STREAM)
    code, answer = await layout("--json")
    assert (code, answer["agrees"]) == (1, False)
    code, answer = await layout("set", "--stream-shards", "1", "--yes", "--json")
    assert (code, answer["agrees"]) == (0, True)
    assert set(answer["former"]) == {key for key in LAYOUT.keys if await redis.exists(key)}
    assert await (await db.execute(CLAIMABLE_BEFORE)).fetchall() == [()]


@pytest.mark.promise("layout")
async def test_the_release_before_layouts_claims_nothing_beside_one(
    dispatcher: StartDispatcher, db: Any, redis: Redis
) -> None:
    async with dispatcher(**SHARDED) as running:
        await insert_events(db, 1)
        await running.tap.add_up(Settled, sent=1)
    assert await (await db.execute(CLAIMABLE_BEFORE)).fetchall() == []
    with pytest.raises(psycopg.DatabaseError, match="dispatcher layout") as refused:
        await db.execute(MARK_BEFORE)
    assert refused.value.sqlstate == "DS002"
    await db.execute("DELETE FROM messaging.unbroken")  # as after a crash of Postgres
    with pytest.raises(psycopg.DatabaseError, match="other streams"):
        await db.execute(MARK_BEFORE)
    async with dispatcher(**SHARDED) as running:
        await running.tap.next(CrashAudited)
        await insert_events(db, 1)
        await running.tap.add_up(Settled, sent=1)


@pytest.mark.promise("layout")
@pytest.mark.parametrize(
    ("arrange", "why"),
    [
        (
            "UPDATE messaging.message_outbox SET status = 'picked', picked_at = now(), stream_id = '5-1', "
            "claim_id = gen_random_uuid()",
            "rows are in hand",
        ),
        (
            "INSERT INTO messaging.pause_acknowledgement (name, generation, in_flight) VALUES ('frozen', 0, 3)",
            "frozen",
        ),
    ],
)
async def test_it_stays_as_it_was_while_something_is_in_hand(db: Any, layout: Any, arrange: str, why: str) -> None:
    await insert_events(db, 1)
    await db.execute(arrange)
    code, answer = await layout("set", *SETTINGS, "--yes", "--timeout", "1")
    assert code == 1
    assert "the layout is as it was" in answer["said"]
    assert why in answer["said"]
    assert await (await db.execute("SELECT paused FROM messaging.pause")).fetchall() == [(False,)]
    assert await (await db.execute("SELECT FROM messaging.layout")).fetchall() == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--stream-shards", "3"), "--stream-shards is '3': it must be a power of two"),
        (("--routes", "order.*"), "'order.*' alone is none"),
        (("--routes", "a*=x,ab=y"), "the route 'ab' can never match"),
        (("--routes", "a=x{1}"), "has braces"),
        (("--stream-name", "{a}:b", "--stream-shards", "2"), "a name with braces cannot have shards"),
        (("--stream-shards", "256", "--routes", "a=1,b=2,c=3,d=4"), "at most 1024"),
    ],
)
async def test_bad_layouts_are_one_clear_line(layout: Any, arguments: tuple[str, ...], said: str) -> None:
    code, answer = await layout("set", *arguments, "--yes")
    assert code == 2
    assert said in answer["said"]
    assert len(answer["said"].strip().splitlines()) == 1
