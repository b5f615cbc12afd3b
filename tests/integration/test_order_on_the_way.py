"""Order within an aggregate, where a claim goes wrong half-way, or a row is not where a claim looks for it."""

import json
from collections.abc import Callable
from typing import Any

import anyio
import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.core.events import Buried, Published, Settled, SlotsChanged
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.sqlfiles import load
from dispatcher.relay.stream.bisect import PoisonBisector
from tests.integration.test_order import FAST, ORDER, POISON, add, cutting, many, order_of, sent
from tests.support.handlers import MakeModule
from tests.support.proxy import StartProxy
from tests.support.rows import insert_events, read_stream, read_table
from tests.support.running import StartDispatcher
from tests.support.slots import shares_of
from tests.support.waiting import becomes, pass_time, until

Db = psycopg.AsyncConnection[Any]
LEASE_S = 2.0
IN_A_DAY = "UPDATE messaging.message_outbox SET next_run_at = now() + interval '1 day'"
PARK = "UPDATE messaging.message_outbox SET next_run_at = 'infinity' WHERE id = %s"
UNPARK = "UPDATE messaging.message_outbox SET next_run_at = '1970-01-01Z' WHERE id = %s"
ACTED = "SELECT pg_notify('outbox_control', '')"  # as whoever acts does, see docs/runbook/held-aggregates.md


async def hold_one(db: Db) -> None:
    """An aggregate is held, and a later event of it waits: claims look first from when they have seen that."""
    await add(db, "held", 1, status="retry", attempts=1)
    await db.execute(IN_A_DAY)
    await add(db, "held", 2)


def after(beginning: str, when: Callable[[list[Any]], bool], then: Callable[[], Any]) -> Any:
    """Session._execute that once calls `then` after a statement that begins so, if its rows are such."""
    execute, done = Session._execute, list[bool]()

    async def executed(self: Session, cursor: Any, sql: str, params: Any, *, prepare: bool) -> Any:
        rows = await execute(self, cursor, sql, params, prepare=prepare)
        if sql.startswith(beginning) and not done and when(rows):
            done.append(True)
            await then()
        return rows

    return executed


async def test_rows_are_not_overtaken_when_a_claim_fails_after_it_was_made(
    dispatcher: StartDispatcher, db: Db, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has to wait is given back by a second statement. It fails, and the rows of the first are picked."""
    execute, failed = Session._execute, list[bool]()

    async def fails_once(self: Session, cursor: Any, sql: str, params: Any, *, prepare: bool) -> Any:
        if sql.startswith("-- release") and not failed:
            failed.append(True)
            await execute(self, cursor, "SELECT 1 / 0", None, prepare=False)
        return await execute(self, cursor, sql, params, prepare=prepare)

    await add(db, "held", 1, status="retry", attempts=1)
    await db.execute(IN_A_DAY)
    async with dispatcher(**ORDER, lease_ms=120_000):
        await add(db, "b", 0)
        await becomes(lambda: sent(db), 1)
        monkeypatch.setattr(Session, "_execute", fails_once)
        async with db.transaction():
            await add(db, "b", 1)
            await add(db, "held", 2)
        await until(lambda: failed, "what has to wait is given back")
        await add(db, "b", 2)
        await becomes(lambda: sent(db), 3)
    assert await order_of(redis, "b") == [0, 1, 2]


async def test_an_event_whose_claim_was_answered_too_late_does_not_hold_for_good(
    dispatcher: StartDispatcher, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was tried before, so it holds from its claim on. It is given back, and a person deletes it then."""

    async def late() -> None:
        await pass_time(0.6 * LEASE_S)
        monkeypatch.setattr(Session, "_execute", after("-- release", lambda rows: bool(rows), delete))

    async def delete() -> None:
        await db.execute("DELETE FROM messaging.message_outbox WHERE status = 'retry'")
        deleted.append(True)

    deleted = list[bool]()
    async with dispatcher(**ORDER, lease_ms=int(1000 * LEASE_S)):
        monkeypatch.setattr(Session, "_execute", after("-- claim:", lambda rows: bool(rows), late))
        await add(db, "a", 1, status="retry", attempts=1)
        await until(lambda: deleted, "it is given back")
        await add(db, "a", 2)
        await becomes(lambda: sent(db), 1)


@pytest.mark.parametrize("on_dead", ["continue", "hold"])
async def test_what_follows_an_event_that_can_never_be_sent(
    dispatcher: StartDispatcher, db: Db, redis: Redis, on_dead: str
) -> None:
    """All are in one batch: with `hold` the others wait, else the next one names it."""
    [bad] = await insert_events(db, aggregate_id="a", payload=json.dumps({"n": 1, "x": "y" * 3000}))
    await add(db, "a", 2, 3)
    await add(db, "other", 1)
    async with dispatcher(**ORDER, order_on_dead=on_dead, max_payload_bytes=2000) as running:
        await running.tap.next(Buried)
        await becomes(lambda: sent(db), 1 if on_dead == "hold" else 3)
        await add(db, "other", 2)
        await becomes(lambda: sent(db), 2 if on_dead == "hold" else 4)
    [dead] = [row for row in await read_table(db) if row["id"] == bad]
    told = [entry.get("after_dead") for entry in await read_stream(redis) if entry["aggregate_id"] == "a"]
    assert told == ([] if on_dead == "hold" else [str(dead["event_id"]), None])


async def test_no_entry_tells_of_a_dead_event_that_went_out_after_all(
    dispatcher: StartDispatcher, db: Db, redis: Redis, redis_url: str, proxy: StartProxy
) -> None:
    through = await proxy(redis_url)
    through.make_filter = cutting
    [bad] = await insert_events(db, aggregate_id="a", payload=POISON)
    async with dispatcher(redis_url=through.via(redis_url), **ORDER, **FAST) as running:
        await running.tap.next(Buried)
        through.make_filter = None
        await db.execute("UPDATE messaging.message_dlq SET replayed_at = now()")
        await db.execute("UPDATE messaging.message_outbox SET status = 'pending', attempts = 0")
        await db.execute(UNPARK, (bad,))
        await becomes(lambda: sent(db), 1)
        await add(db, "a", 2)
        await becomes(lambda: sent(db), 2)
    assert [entry.get("after_dead") for entry in await read_stream(redis)] == [None, None]


async def test_a_scheduled_event_goes_after_earlier_ones_that_find_no_room_in_its_batch(
    dispatcher: StartDispatcher, db: Db, redis: Redis
) -> None:
    await hold_one(db)
    await add(db, "other", 1)
    async with dispatcher(**ORDER, batch_size=16):
        await becomes(lambda: sent(db), 1)
        async with db.transaction():  # a look sees more than one batch takes: 1 would be in the next one
            await many(db, 19)
            await add(db, "a", 1)
            await many(db, 1)
            [scheduled] = await add(db, "a", 2)
            await db.execute("UPDATE messaging.message_outbox SET next_run_at = now() WHERE id = %s", (scheduled,))
            await many(db, 100)
        await becomes(lambda: sent(db), 1 + 122)
    assert await order_of(redis, "a") == [1, 2]


async def test_an_event_that_is_parked_no_more_goes_after_earlier_ones_of_a_backlog(
    dispatcher: StartDispatcher, db: Db, redis: Redis
) -> None:
    """It is tried by its id, wherever it lies."""
    await many(db, 5000)
    await add(db, "a", 1)
    [parked] = await add(db, "a", 2)
    await db.execute(PARK, (parked,))
    async with dispatcher(**ORDER, batch_size=16) as running:
        for _ in range(20):  # of some three hundred
            await running.tap.next(Published)
        await db.execute(UNPARK, (parked,))
        await db.execute(ACTED)
        await becomes(lambda: sent(db), 5002)
    assert await order_of(redis, "a") == [1, 2]


@pytest.mark.parametrize("handled", [True, False])
async def test_an_event_that_is_parked_no_more_goes_to_its_own_relay(
    dispatcher: StartDispatcher, db: Db, redis: Redis, handlers_module: MakeModule, handled: bool
) -> None:
    """While it is parked it holds those of the stream and those of handlers."""
    done = list[int]()

    async def handle(payload: Any, event: Any) -> None:
        if event.aggregate_id == "a":
            done.append(payload["n"])

    name = handlers_module({"handled": handle})
    [parked] = await add(db, "a", 1, event_type="handled" if handled else "order.created")
    await db.execute(PARK, (parked,))
    async with dispatcher(handlers=name, **ORDER):
        for number in range(3):  # both relays look for what is parked when they have claimed something else
            await add(db, "other", number, event_type="handled")
            await add(db, "other", number)
            await becomes(lambda: sent(db), 2 * number + 2)
        await add(db, "a", 2, event_type="handled")
        await add(db, "a", 3)
        await db.execute(UNPARK, (parked,))
        await db.execute(ACTED)
        await becomes(lambda: sent(db), 9)
    assert (done, await order_of(redis, "a")) == (([1, 2], [3]) if handled else ([2], [1, 3]))


async def test_what_was_locked_is_claimed_by_the_owner_of_its_slot_alone(
    dispatcher: StartDispatcher, db: Db, redis: Redis, database_url: str
) -> None:
    """The first owner knows that 2 was locked. 1, which it does not know of, is due when another one owns the slot."""
    names = [f"x{number}" for number in range(8)]  # of which some get another owner
    connect = psycopg.AsyncConnection.connect
    early = [row_id for name in names for row_id in await add(db, name, 1)]
    await db.execute(IN_A_DAY)
    late = [row_id for name in names for row_id in await add(db, name, 2)]
    lock = "SELECT FROM messaging.message_outbox WHERE id = ANY (%s) FOR UPDATE"
    async with await connect(database_url) as first, await connect(database_url) as second:
        await first.execute(lock, (late,))
        async with dispatcher(**ORDER):
            await add(db, "y", 1)
            await becomes(lambda: sent(db), 1)
            async with dispatcher(**ORDER):
                await becomes(lambda: shares_of(db), [128, 128])
                # A lock that lets them be made due and keeps them from a claim: between the two none can be claimed.
                await second.execute(lock.replace("UPDATE", "KEY SHARE"), (early,))
                await db.execute(
                    "UPDATE messaging.message_outbox SET next_run_at = now() WHERE id = ANY (%s)", (early,)
                )
                for number in range(2, 5):
                    for name in names:  # an owner finds out that 1 is locked, for 3 is behind it
                        await add(db, name, number + 1)
                    for other in range(40):
                        await add(db, f"z{number}.{other}", 1)
                    await becomes(lambda: sent(db), 40 * (number - 1) + 1)
                await first.commit()
                for other in range(40):
                    await add(db, f"z.{other}", 1)
                await becomes(lambda: sent(db), 161)
                await second.commit()
                await becomes(lambda: sent(db), 161 + 5 * len(names))
    assert [await order_of(redis, name) for name in names] == [[1, 2, 3, 4, 5]] * len(names)


async def test_what_was_locked_holds_also_when_its_batch_is_too_large(
    dispatcher: StartDispatcher, db: Db, redis: Redis, database_url: str
) -> None:
    [head] = await add(db, "a", 1)
    await add(db, "a", 2)
    await db.execute(
        "INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload) SELECT 'order.created', 'w' || i,"
        " jsonb_build_object('n', i, 'x', repeat('y', 900000)) FROM generate_series(1, 8) AS i"
    )
    async with await psycopg.AsyncConnection.connect(database_url) as person:
        await person.execute("SELECT FROM messaging.message_outbox WHERE id = %s FOR UPDATE", (head,))
        async with dispatcher(**ORDER) as running:
            await running.tap.add_up(Settled, sent=8)
            await person.commit()
            await becomes(lambda: sent(db), 10)
    assert await order_of(redis, "a") == [1, 2]


async def test_each_prepared_transaction_is_a_writer_of_its_own(db: Db, database_url: str) -> None:
    """It has no session any more. One of two ended, and its rows were overtaken while the other went on."""
    names = ["one", "two"]
    for name in names:
        async with await psycopg.AsyncConnection.connect(database_url) as writer:
            await add(writer, name, 1)
            await writer.execute(f"PREPARE TRANSACTION '{name}'".encode())
            await writer.rollback()
    try:
        writers = {name for _, name, *_ in await (await db.execute(load("writers").encode())).fetchall()}
        assert len(writers - {None}) == 2
    finally:
        for name in names:
            await db.execute(f"ROLLBACK PREPARED '{name}'".encode())


async def test_news_of_an_earlier_claim_does_not_let_go_what_a_later_one_holds(
    dispatcher: StartDispatcher, db: Db, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Event 1 failed before, so it is isolated. It is released, and claimed again before we hear of that."""
    [first] = await add(db, "a", 1, status="retry", attempts=1)
    claimed_again, go = anyio.Event(), anyio.Event()
    asked, takes_entries, execute = list[bool](), PoisonBisector._takes_entries, Session._execute

    async def not_at_first(self: PoisonBisector) -> bool:
        asked.append(True)
        if len(asked) == 1:
            return False
        await go.wait()
        return await takes_entries(self)

    async def executed(self: Session, cursor: Any, sql: str, params: Any, *, prepare: bool) -> Any:
        rows = await execute(self, cursor, sql, params, prepare=prepare)
        if sql.startswith("-- claim:") and asked and any(row[0] == first for row in rows):
            claimed_again.set()
        if sql.startswith("-- release") and rows == [(first,)]:
            await add(db, "other", 1)
            await claimed_again.wait()
        return rows

    monkeypatch.setattr(PoisonBisector, "_takes_entries", not_at_first)
    monkeypatch.setattr(Session, "_execute", executed)
    async with dispatcher(**ORDER) as running:
        await running.tap.next(Settled, where=lambda settled: settled.released == 1)
        await add(db, "a", 2)
        await add(db, "other", 2)
        await becomes(lambda: order_of(redis, "other"), [1, 2])
        go.set()
        await becomes(lambda: sent(db), 4)
    assert await order_of(redis, "a") == [1, 2]


async def test_an_entry_that_is_isolated_tells_of_a_dead_event_for_all(
    dispatcher: StartDispatcher, db: Db, redis: Redis
) -> None:
    """Event 2 follows the dead one, and failed once. Event 3 does not name it again."""
    await insert_events(db, aggregate_id="a", payload=json.dumps({"n": 1, "x": "y" * 3000}))
    async with dispatcher(**ORDER, max_payload_bytes=2000) as running:
        await running.tap.next(Buried)
        await add(db, "a", 2, status="retry", attempts=1)
        await becomes(lambda: sent(db), 1)
        await add(db, "a", 3)
        await becomes(lambda: sent(db), 2)
    [dead] = [row for row in await read_table(db) if row["status"] == "dead"]
    assert [entry.get("after_dead") for entry in await read_stream(redis)] == [str(dead["event_id"]), None]


async def test_a_slot_that_was_away_for_a_moment_is_read_from_the_start(
    dispatcher: StartDispatcher, db: Db, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a claim runs its slots are revoked and gained again. Whoever owned them meanwhile has put back event 1."""
    monkeypatch.setattr("dispatcher.relay.order.cursor.START_AGAIN_S", 1000.0)  # that finds it too, later
    claims, execute = list[bool](), Session._execute

    async def executed(self: Session, cursor: Any, sql: str, params: Any, *, prepare: bool) -> Any:
        if sql.startswith("-- claim:") and params["fresh_id"] > 1000 and not claims:
            claims.append(True)
            await db.execute("UPDATE messaging.slot_owner SET epoch = epoch + 1 WHERE owner IS NOT NULL")
            await db.execute("UPDATE messaging.message_outbox SET status = 'pending' WHERE id = %s", (first,))
            await db.execute("SELECT pg_notify('outbox_slots', '')")
            await running.tap.next(SlotsChanged, where=lambda changed: changed.revoked > 0)
        return await execute(self, cursor, sql, params, prepare=prepare)

    [first] = await add(db, "a", 1)
    await many(db, 4000)
    await add(db, "a", 2)
    async with dispatcher(**ORDER, batch_size=64) as running:
        monkeypatch.setattr(Session, "_execute", executed)
        await becomes(lambda: order_of(redis, "a"), [1, 1, 2])
    assert claims
