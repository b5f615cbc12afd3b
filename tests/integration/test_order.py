"""With DISPATCH_ORDER=aggregate the events of an aggregate reach their stream in the order of their ids."""

import re
from typing import Any

import anyio
import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.core.events import Buried, Published, Settled
from dispatcher.infra.postgres.session import Session
from dispatcher.relay.order.groups import SlotGroup
from dispatcher.relay.order.in_order import InOrder
from tests.support.proxy import Direction, Filter, StartProxy
from tests.support.rows import insert_events, read_stream, read_table, statuses
from tests.support.running import StartDispatcher
from tests.support.waiting import PATIENCE_S, becomes, until

Db = psycopg.AsyncConnection[Any]
ORDER = {"order": "aggregate", "tick_ms": 100}
FAST = {"max_attempts": 3, "backoff_base_ms": 10, "backoff_max_ms": 20}
POISON = '{"n": 0, "poison": "' + "y" * 5000 + '"}'


def cutting() -> Filter:
    """Resets a connection that sends the poison."""

    def pass_on(direction: Direction, data: bytes) -> bytes:
        if direction == "to_server" and re.search(rb"\$50\d\d\r\n", data):
            raise ConnectionAbortedError
        return data

    return pass_on


async def order_of(redis: Redis, aggregate: str) -> list[int]:
    """The numbers in the payloads of an aggregate's entries, as they are in the stream."""
    entries = [entry["payload"] for entry in await read_stream(redis) if entry["aggregate_id"] == aggregate]
    return [int(re.findall(r'"n": (\d+)', payload)[0]) for payload in entries]


async def add(db: Db, aggregate: str, *numbers: int, **columns: Any) -> list[int]:
    """One event of the aggregate for each number."""
    ids = []
    for number in numbers:
        ids += await insert_events(db, aggregate_id=aggregate, payload=f'{{"n": {number}}}', **columns)
    return ids


async def sent(db: Db) -> int:
    """How many rows are sent."""
    return await count(db, "sent")


async def count(db: Db, status: str) -> int:
    """How many rows have this status."""
    cursor = await db.execute("SELECT count(*) FROM messaging.message_outbox WHERE status = %s", (status,))
    [(rows,)] = await cursor.fetchall()
    return int(rows)


async def many(db: Db, rows: int, aggregates: int = 50) -> None:
    """A backlog, in one statement."""
    await db.execute(
        "INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload)"
        " SELECT 'order.created', 'b' || (i %% %s), jsonb_build_object('n', i) FROM generate_series(1, %s) AS i",
        (aggregates, rows),
    )


@pytest.mark.parametrize("aggregates", [1, 3, 500])
async def test_a_backlog_goes_out_in_order(dispatcher: StartDispatcher, db: Db, redis: Redis, aggregates: int) -> None:
    await many(db, 5000, aggregates)
    async with dispatcher(**ORDER):
        await becomes(lambda: sent(db), 5000)
        await many(db, 100, aggregates)
        await becomes(lambda: sent(db), 5100)
    seen: dict[str, list[int]] = {}
    for entry in await read_stream(redis):
        seen.setdefault(entry["aggregate_id"], []).append(int(re.findall(r"\d+", entry["payload"])[0]))
    assert sum(map(len, seen.values())) == 5100
    rows = await (
        await db.execute("SELECT aggregate_id, payload->>'n' FROM messaging.message_outbox ORDER BY id")
    ).fetchall()
    ids: dict[str, list[int]] = {}
    for aggregate, number in rows:
        ids.setdefault(aggregate, []).append(int(number))
    assert seen == ids


async def test_what_somebody_has_locked_is_waited_for_by_its_aggregate_alone(
    dispatcher: StartDispatcher, db: Db, redis: Redis, database_url: str
) -> None:
    [_, locked, _] = await add(db, "a", 1, 2, 3)
    await add(db, "other", 1, 2)
    async with await psycopg.AsyncConnection.connect(database_url) as person:
        await person.execute("SELECT FROM messaging.message_outbox WHERE id = %s FOR UPDATE", (locked,))
        async with dispatcher(**ORDER):
            await becomes(lambda: sent(db), 3)
            await add(db, "a", 4)
            await add(db, "other", 3)
            await becomes(lambda: sent(db), 4)
            assert (await order_of(redis, "a"), await order_of(redis, "other")) == ([1], [1, 2, 3])
            await person.commit()
            await becomes(lambda: sent(db), 7)
    assert await order_of(redis, "a") == [1, 2, 3, 4]


async def test_a_row_is_not_overtaken_while_a_claim_runs_from_behind_it(
    dispatcher: StartDispatcher, db: Db, redis: Redis, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events 3 and 4 waited behind 2, which was locked, and lie before the cursor. 2 is settled while the next claim
    looks at what lies behind the cursor: it finds 5 alone."""
    [_, locked, _] = await add(db, "a", 1, 2, 3)
    looked, execute = anyio.Event(), Session._execute

    async def in_turn(self: Session, cursor: Any, sql: str, params: Any, *, prepare: bool) -> Any:
        if sql.startswith("-- settle_sent") and locked in params["ids"]:
            await add(db, "a", 5)
            with anyio.fail_after(PATIENCE_S):
                await looked.wait()
        looks = sql.startswith("-- peek") and not looked.is_set() and (await order_of(redis, "a"))[1:] == [2]
        rows = await execute(self, cursor, sql, params, prepare=prepare)
        if looks:
            looked.set()
            await running.tap.next(Settled, where=lambda settled: settled.sent == 1)
        return rows

    async with await psycopg.AsyncConnection.connect(database_url) as person:
        await person.execute("SELECT FROM messaging.message_outbox WHERE id = %s FOR UPDATE", (locked,))
        async with dispatcher(**ORDER) as running:
            await becomes(lambda: sent(db), 1)
            await add(db, "a", 4)
            await add(db, "other", 1)
            await becomes(lambda: sent(db), 2)
            await running.tap.add_up(Settled, sent=2)
            monkeypatch.setattr(Session, "_execute", in_turn)
            await person.commit()
            await becomes(lambda: sent(db), 6)
            assert looked.is_set()
    assert await order_of(redis, "a") == [1, 2, 3, 4, 5]


async def test_a_lock_of_all_that_a_claim_could_take_holds_nobody_else(
    dispatcher: StartDispatcher, db: Db, redis: Redis, database_url: str
) -> None:
    await many(db, 600)
    await add(db, "other", 1, 2)
    async with await psycopg.AsyncConnection.connect(database_url) as person:
        await person.execute("SELECT FROM messaging.message_outbox WHERE aggregate_id <> 'other' FOR UPDATE")
        async with dispatcher(**ORDER):
            await becomes(lambda: sent(db), 2)
            await person.commit()
            await becomes(lambda: sent(db), 602)


async def test_a_row_that_commits_late_is_not_overtaken_by_the_next_of_its_aggregate(
    dispatcher: StartDispatcher, db: Db, redis: Redis, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a backlog a claim begins after the one before: what commits late has lower ids than what is gone."""
    monkeypatch.setattr("dispatcher.relay.order.cursor.START_AGAIN_S", 1000.0)  # that finds it too, later
    async with await psycopg.AsyncConnection.connect(database_url) as writer:
        await add(writer, "late", 1)
        await many(db, 4000)
        async with dispatcher(**ORDER, batch_size=64) as running:
            for _ in range(25):  # of some eighty
                await running.tap.next(Published)
            await writer.commit()
            await add(db, "late", 2)
            await becomes(lambda: sent(db), 4002)
    assert await order_of(redis, "late") == [1, 2]


async def test_in_a_backlog_claims_begin_behind_what_is_gone_and_one_proof_is_enough_for_many(
    dispatcher: StartDispatcher, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To pass over what is settled, and to ask who writes before each claim, costs as much as the claim itself."""
    monkeypatch.setattr("dispatcher.relay.order.cursor.START_AGAIN_S", 1000.0)
    monkeypatch.setattr("dispatcher.relay.order.cursor.PROVE_EVERY_S", 0.0)
    monkeypatch.setattr("dispatcher.relay.order.cursor.PROVE_REST", 0.0)
    proofs, began, execute = 0, list[int](), Session._execute

    async def counted(self: Session, cursor: Any, sql: str, params: Any, *, prepare: bool) -> Any:
        nonlocal proofs
        proofs += sql.startswith("-- writers")
        if sql.startswith("-- claim:") and "fresh_id" in params:  # not that which is tried out at the start
            began.append(params["fresh_id"])
        return await execute(self, cursor, sql, params, prepare=prepare)

    await many(db, 6400)
    monkeypatch.setattr(Session, "_execute", counted)
    async with dispatcher(**ORDER, batch_size=64):
        await becomes(lambda: sent(db), 6400)
    assert len(began) > 100
    assert len([each for each in began if not each]) < 20  # the slots are divided anew now and then
    assert proofs < 20


async def test_a_claim_full_of_fresh_events_has_room_for_a_scheduled_one_that_is_due(
    dispatcher: StartDispatcher, db: Db, redis: Redis
) -> None:
    """Event 1 was scheduled and is due. Of more fresh ones than a claim takes the first is of the same aggregate."""
    [scheduled] = await add(db, "a", 1)
    await db.execute("UPDATE messaging.message_outbox SET next_run_at = now() WHERE id = %s", (scheduled,))
    await add(db, "a", 2)
    await many(db, 200)
    async with dispatcher(**ORDER, batch_size=64):
        await becomes(lambda: sent(db), 202)
    assert await order_of(redis, "a") == [1, 2]


async def test_a_parked_event_holds_the_later_ones(dispatcher: StartDispatcher, db: Db, redis: Redis) -> None:
    [parked] = await add(db, "a", 1)
    await db.execute("UPDATE messaging.message_outbox SET next_run_at = 'infinity' WHERE id = %s", (parked,))
    await add(db, "a", 2)
    await add(db, "other", 1)
    async with dispatcher(**ORDER):
        await becomes(lambda: sent(db), 1)
        await add(db, "b", 1)
        await becomes(lambda: sent(db), 2)
        await db.execute("UPDATE messaging.message_outbox SET next_run_at = now() WHERE id = %s", (parked,))
        await becomes(lambda: sent(db), 4)
    assert await order_of(redis, "a") == [1, 2]


@pytest.mark.parametrize("by_peek", [False, True])
async def test_more_parked_events_than_one_peek_tells_of_hold_the_later_ones(
    dispatcher: StartDispatcher, db: Db, by_peek: bool
) -> None:
    """Somebody parks a whole backlog. A peek tells of 10,000, the oldest first."""
    add_parked = """
        INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload, next_run_at)
        SELECT 'order.created', 'p' || i, '{}', 'infinity' FROM generate_series(%s::int, %s) AS i
    """
    async with dispatcher(**ORDER):
        await add(db, "before", 1)
        await becomes(lambda: sent(db), 1)
        if by_peek:  # something is held, and a later event of it was seen
            await db.execute(add_parked, (0, 0))
            await add(db, "p0", 1)
            await add(db, "before", 2)
            await becomes(lambda: sent(db), 2)
        before = await sent(db)
        async with db.transaction():
            await db.execute(add_parked, (1, 25_000))
            for number in range(24_990, 25_001):
                await add(db, f"p{number}", number)
            await add(db, "behind", 1)
        await becomes(lambda: sent(db), before + 1)
        assert await count(db, "pending") == 25_000 + 11 + 2 * by_peek


async def test_what_another_claim_has_holds_the_later_ones(dispatcher: StartDispatcher, db: Db, redis: Redis) -> None:
    [picked] = await add(db, "a", 1)
    await db.execute(
        "UPDATE messaging.message_outbox SET status = 'picked', picked_at = now(), claim_id = gen_random_uuid()"
        " WHERE id = %s",
        (picked,),
    )
    await add(db, "a", 2)
    await add(db, "other", 1)
    async with dispatcher(**ORDER):
        await becomes(lambda: sent(db), 1)
        await add(db, "other", 2)
        await becomes(lambda: sent(db), 2)
        await db.execute("UPDATE messaging.message_outbox SET status = 'pending', claim_id = NULL")
        await becomes(lambda: sent(db), 3 + 1)
    assert await order_of(redis, "a") == [1, 2]


async def test_a_scheduled_event_holds_nobody_and_takes_its_place_when_it_is_due(
    dispatcher: StartDispatcher, db: Db, redis: Redis
) -> None:
    [scheduled] = await add(db, "a", 1)
    await db.execute("UPDATE messaging.message_outbox SET next_run_at = now() + interval '1 day' WHERE id = 1")
    await add(db, "a", 2)
    async with dispatcher(**ORDER):
        await becomes(lambda: sent(db), 1)
        assert scheduled == 1
    await add(db, "a", 3)
    await db.execute("UPDATE messaging.message_outbox SET next_run_at = now() WHERE id = 1")
    async with dispatcher(**ORDER):
        await becomes(lambda: sent(db), 3)
    assert await order_of(redis, "a") == [2, 1, 3]


async def test_a_batch_that_is_not_answered_is_not_followed_by_another_of_its_slots(
    dispatcher: StartDispatcher,
    db: Db,
    redis: Redis,
    redis_url: str,
    proxy: StartProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, ready = list[SlotGroup | None](), InOrder.ready

    async def counted(self: InOrder, *about: Any) -> SlotGroup | None:
        asked.append(await ready(self, *about))
        return asked[-1]

    monkeypatch.setattr(InOrder, "ready", counted)
    through = await proxy(redis_url)
    async with dispatcher(redis_url=through.via(redis_url), **ORDER):
        await add(db, "a", 0)
        await becomes(lambda: sent(db), 1)
        through.hold("to_server")
        await add(db, "a", 1)
        await until(lambda: b"XADD" in through.held_bytes("to_server"), "it is published")
        await add(db, "a", 2)
        before = len(asked)
        await until(lambda: len(asked) >= before + 3, "the relay wants to claim again")
        assert await statuses(db) == {"sent": 1, "picked": 1, "pending": 1}
        through.let_go("to_server")
        await becomes(lambda: sent(db), 3)
    assert await order_of(redis, "a") == [0, 1, 2]


async def test_a_failing_event_holds_its_aggregate_and_the_next_one_tells_of_its_death(
    dispatcher: StartDispatcher, db: Db, redis: Redis, redis_url: str, proxy: StartProxy
) -> None:
    through = await proxy(redis_url)
    through.make_filter = cutting
    await add(db, "a", 1)
    [bad] = await insert_events(db, aggregate_id="a", payload=POISON)
    await add(db, "a", 2, 3)
    for number in range(20):
        await add(db, f"b{number}", 1)
    async with dispatcher(redis_url=through.via(redis_url), **ORDER, **FAST) as running:
        await running.tap.next(Buried)
        await becomes(lambda: sent(db), 23)
    [dead] = [row for row in await read_table(db) if row["id"] == bad]
    assert (dead["status"], dead["attempts"]) == ("dead", 3)
    assert await order_of(redis, "a") == [1, 2, 3]
    told = {entry["payload"]: entry.get("after_dead") for entry in await read_stream(redis)}
    assert told == {'{"n": 1}': None, '{"n": 2}': str(dead["event_id"]), '{"n": 3}': None} | {
        payload: None for payload in told if payload not in ('{"n": 2}',)
    }


async def test_the_next_entry_tells_of_a_death_also_after_a_restart(
    dispatcher: StartDispatcher, db: Db, redis: Redis, redis_url: str, proxy: StartProxy
) -> None:
    through = await proxy(redis_url)
    through.make_filter = cutting
    await insert_events(db, aggregate_id="a", payload=POISON)
    async with dispatcher(redis_url=through.via(redis_url), **ORDER, **FAST) as running:
        await running.tap.next(Buried)
    await add(db, "a", 1)
    async with dispatcher(**ORDER):
        await becomes(lambda: sent(db), 1)
        await add(db, "a", 2)
        await becomes(lambda: sent(db), 2)
    [dead] = [row for row in await read_table(db) if row["status"] == "dead"]
    await add(db, "a", 3)
    async with dispatcher(**ORDER):
        await becomes(lambda: sent(db), 3)
    assert [entry.get("after_dead") for entry in await read_stream(redis)] == [str(dead["event_id"]), None, None]


async def test_with_hold_the_later_ones_wait_until_it_is_retried(
    dispatcher: StartDispatcher, db: Db, redis: Redis, redis_url: str, proxy: StartProxy
) -> None:
    through = await proxy(redis_url)
    through.make_filter = cutting
    [bad] = await insert_events(db, aggregate_id="a", payload=POISON)
    await add(db, "a", 1)
    async with dispatcher(redis_url=through.via(redis_url), order_on_dead="hold", **ORDER, **FAST) as running:
        await running.tap.next(Buried)
        await add(db, "a", 2)
        await add(db, "other", 1)
        await becomes(lambda: sent(db), 1)
    through.make_filter = None
    async with dispatcher(redis_url=through.via(redis_url), order_on_dead="hold", **ORDER, **FAST):
        await add(db, "other", 2)
        await becomes(lambda: sent(db), 2)
        assert await order_of(redis, "a") == []
        await db.execute(
            "UPDATE messaging.message_outbox SET status = 'pending', attempts = 0, next_run_at = '1970-01-01Z'"
            " WHERE id = %s",
            (bad,),
        )
        await becomes(lambda: sent(db), 5)
    assert await order_of(redis, "a") == [0, 1, 2]
