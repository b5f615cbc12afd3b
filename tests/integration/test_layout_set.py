"""`set_layout` of Postgres: what a first layout counts, and what the layout before must not leave behind."""

from typing import Any
from uuid import uuid4

import anyio
import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.core.events import CrashAudited, LayoutChanged, Republished, Settled, TakenOver, Ticked
from dispatcher.core.layout import Layout, Route
from dispatcher.infra.sqlfiles import load, migrations
from tests.support.command import HearCommand
from tests.support.reads import blocks_of, blocks_read
from tests.support.rows import STREAM, insert_events, one_row, read_stream, read_table, statuses
from tests.support.running import StartDispatcher
from tests.support.slots import Keep, owners
from tests.support.waiting import becomes, until

ROUTES = (Route("pay.*", "payments"),)
ROUTED = Layout(STREAM, 1, ROUTES)
SHARDED = Layout(STREAM, 4)
WAITS_FOR_THE_AUDITS_LOCK = (
    "SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = 1869968482 AND objid = 4 AND NOT granted"
)


async def pause(db: psycopg.AsyncConnection[Any], *, paused: bool) -> None:
    await db.execute(load("pause_set").encode(), {"paused": paused, "changed_by": "test", "reason": None})


async def set_layout(db: psycopg.AsyncConnection[Any], layout: Layout, *, first: bool = False) -> str | None:
    """As `dispatcher layout set` does once everything is paused: why it was not set."""
    await pause(db, paused=not first)
    parameters = layout.columns() | {"former": [], "by": "test", "first": first}
    [(why,)] = await (await db.execute(load("layout_set").encode(), parameters)).fetchall()
    await pause(db, paused=False)
    return None if why is None else str(why)


# The first layout.

OF_A_HANDLER: dict[str, Any] = {"status": "sent", "sent_at": "now"}
OF_A_PROOF: dict[str, Any] = OF_A_HANDLER | {"event_type": "dispatcher.prove", "stream_id": "5-1"}
OF_A_STREAM: dict[str, Any] = OF_A_HANDLER | {"stream_id": "5-1"}
DEAD: dict[str, Any] = {"status": "dead"}


@pytest.mark.promise("layout")
@pytest.mark.parametrize("settled", [OF_A_HANDLER, OF_A_PROOF, DEAD], ids=["of a handler", "of a proof", "dead"])
async def test_what_was_in_no_stream_of_ours_does_not_hinder_the_first_layout(
    dispatcher: StartDispatcher, db: Any, settled: dict[str, Any]
) -> None:
    """It was refused for good, and nothing was ever published."""
    await insert_events(db, 3, **settled)
    async with dispatcher(routes=ROUTES) as running:
        await insert_events(db, 2)
        await running.tap.add_up(Settled, sent=2)
        assert [each.reason for each in running.tap.all(LayoutChanged)] == [None]


async def test_what_was_in_a_stream_hinders_the_first_layout(db: Any) -> None:
    await insert_events(db, 1, **OF_A_STREAM)
    assert await set_layout(db, ROUTED, first=True) == "there are settled events"


@pytest.mark.parametrize(("newest", "why"), [(OF_A_HANDLER, None), (OF_A_STREAM, "there are settled events")])
async def test_of_very_many_settled_rows_a_first_layout_reads_the_newest_too(
    db: Any, newest: dict[str, Any], why: str | None
) -> None:
    """An outbox of handlers alone that is given an order has nothing else, and nobody to set its layout."""
    await db.execute("SET dispatcher.doorbell = off")
    await insert_events(db, 100_000, **OF_A_HANDLER)
    await insert_events(db, 1, **newest)
    assert await set_layout(db, ROUTED, first=True) == why


async def test_of_a_large_backlog_a_first_layout_reads_the_oldest_rows(db: Any) -> None:
    """All that settle wait meanwhile: it read every row, and again when that took longer than the timeout."""
    await db.execute("SET dispatcher.doorbell = off")
    await insert_events(db, 250_000)
    parameters = ROUTED.columns() | {"former": [], "by": "test", "first": True}
    assert await blocks_read(db, load("layout_set"), parameters) < await blocks_of(db, "message_outbox") * 2 / 3
    assert await set_layout(db, ROUTED, first=True) is None


async def test_nothing_is_claimed_before_postgres_has_answered_whether_it_takes_the_first_layout(
    dispatcher: StartDispatcher, db: Any, database_url: str
) -> None:
    """That it could not answer was taken for another layout: said so, and handlers went on beside it."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as slow:
        await slow.execute("SELECT pg_advisory_lock(1869968482, 4)")
        async with dispatcher(routes=ROUTES, query_timeout_ms=200) as running:
            await running.tap.next(Ticked, lambda tick: "pause: " in (tick.error or ""))
            await insert_events(db, 1)
            await running.tap.next(Ticked, lambda tick: "pause: " in (tick.error or ""))
            assert running.tap.all(LayoutChanged) == []
            await slow.execute("SELECT pg_advisory_unlock(1869968482, 4)")
            await running.tap.add_up(Settled, sent=1)
            assert [each.reason for each in running.tap.all(LayoutChanged)] == [None]


# After a crash of Postgres.


@pytest.mark.promise("layout")
@pytest.mark.parametrize("noted", [True, False], ids=["noted", "behind a proxy that hides who Redis is"])
async def test_a_key_is_not_given_up_before_it_was_searched_after_a_crash(
    dispatcher: StartDispatcher, db: Any, redis: Redis, heard: HearCommand, noted: bool
) -> None:
    """The settles that Postgres forgot were looked for in the keys of the new layout only: all went out twice."""
    async with dispatcher(stream_shards=4) as running:
        await insert_events(db, 20)
        await running.tap.add_up(Settled, sent=20)
    await db.execute(
        "UPDATE messaging.message_outbox SET status = 'pending', sent_at = NULL, stream_id = NULL, stream = NULL, "
        "claim_id = NULL, picked_at = NULL, picked_by = NULL"
    )
    await db.execute("UPDATE messaging.newest_entry SET stream_id = '0-0'")
    await db.execute("DELETE FROM messaging.unbroken")
    if not noted:
        await db.execute("DELETE FROM messaging.stream_server")
    wanted = ("layout", "set", "--stream-shards", "2", "--yes", "--timeout")
    code, _, said = await heard(*wanted, "1", DISPATCH_STREAM_NAME=STREAM)
    assert code == 1
    assert "Postgres may have forgotten claims" in said
    assert "old layout" in said
    async with dispatcher(stream_shards=4) as running:
        assert (await running.tap.next(CrashAudited)).found == 20
        assert (await heard(*wanted, "60", DISPATCH_STREAM_NAME=STREAM))[0] == 0
    async with dispatcher(stream_shards=2) as running:
        await insert_events(db, 5)
        await running.tap.add_up(Settled, sent=5)
    assert sum([len(await read_stream(redis, key)) for key in SHARDED.keys]) == 25


async def test_a_key_that_stays_may_be_searched_later(db: Any) -> None:
    assert await set_layout(db, Layout(STREAM, 1, (Route("a", "b"),))) is None
    await db.execute("DELETE FROM messaging.unbroken")
    assert await set_layout(db, Layout(STREAM, 1, (Route("a", "b"), Route("c", "d")))) is None
    assert await one_row(db, "SELECT FROM messaging.layout WHERE generation = 2")


# What is noted of a key that was given up.


@pytest.mark.promise("layout")
async def test_what_is_noted_of_a_key_just_after_it_was_given_up_is_no_loss_later(
    dispatcher: StartDispatcher, db: Any, redis: Redis, database_url: str
) -> None:
    """A dispatcher that connects while the layout is set notes its own key, and knows of nothing yet."""
    async with dispatcher(routes=ROUTES) as running:
        await insert_events(db, 10)
        await running.tap.add_up(Settled, sent=10)
    await db.execute("DELETE FROM messaging.stream_server")  # so that the next one has to note it
    other = Layout("other", 1, ROUTES)
    async with (
        await psycopg.AsyncConnection.connect(database_url, autocommit=True) as holder,
        await psycopg.AsyncConnection.connect(database_url, autocommit=True) as changer,
        anyio.create_task_group() as tasks,
    ):
        await holder.execute("SELECT pg_advisory_lock(1869968482, 4)")
        await pause(db, paused=True)
        parameters = other.columns() | {"former": [], "by": "test", "first": False}
        tasks.start_soon(changer.execute, load("layout_set").encode(), parameters)
        await until(lambda: one_row(db, WAITS_FOR_THE_AUDITS_LOCK), "the layout is about to be set")
        async with dispatcher(routes=ROUTES) as late:

            async def both_wait() -> bool:
                return bool((await db.execute(WAITS_FOR_THE_AUDITS_LOCK)).rowcount == 2)

            await until(both_wait, "the dispatcher is about to note its keys")
            await holder.execute("SELECT pg_advisory_unlock(1869968482, 4)")
            noted = "SELECT FROM messaging.stream_server WHERE stream = %s"
            await until(lambda: one_row(db, noted, STREAM), "the key is noted after it was given up")
            await late.tap.next(LayoutChanged, lambda change: change.reason is not None)
        await pause(db, paused=False)
    await redis.delete(STREAM)
    assert await set_layout(db, ROUTED) is None
    async with dispatcher(routes=ROUTES) as running:
        await insert_events(db, 1)
        await running.tap.add_up(Settled, sent=1)
        assert running.tap.all(Republished) == []
    assert len(await read_stream(redis)) == 1


# Rows that were claimed by the new layout, beside a dispatcher of the one before.


@pytest.mark.promise("layout")
async def test_what_a_dead_dispatcher_of_the_new_layout_published_is_not_released_by_one_of_the_layout_before(
    dispatcher: StartDispatcher, db: Any, redis: Redis
) -> None:
    """It looked in the stream that its own routes name, found nothing there, and the event went out again."""
    async with dispatcher() as before:
        await insert_events(db, 1)
        await before.tap.add_up(Settled, sent=1)
        assert await set_layout(db, ROUTED) is None
        await before.tap.next(LayoutChanged, lambda change: change.reason is not None)
        of_the_dead = {"status": "picked", "picked_by": 98, "claim_id": str(uuid4()), "stream_id": "0-0"}
        await insert_events(db, 1, event_type="pay.x", picked_at="now", **of_the_dead)
        [event] = [row["event_id"] for row in await read_table(db) if row["status"] == "picked"]
        await redis.xadd("payments", {"event_id": str(event)})
        await db.execute("INSERT INTO messaging.dispatcher (id, name) VALUES (98, 'host-1-deadbeef')")
        await before.tap.next(TakenOver, lambda taken: taken.died)
        async with dispatcher(routes=ROUTES) as after:
            await insert_events(db, 1, event_type="pay.y")
            await after.tap.add_up(Settled, sent=1)
            await becomes(lambda: statuses(db), {"sent": 3})
            await becomes(lambda: one_row(db, "SELECT FROM messaging.dispatcher WHERE id = 98"), False)
    assert len(await read_stream(redis, "payments")) == 2


# The slots of an order that is given up.


@pytest.mark.promise("layout")
async def test_an_owner_of_slots_that_is_dead_is_forgotten_once_no_order_is_kept(
    dispatcher: StartDispatcher, db: Any, keep: Keep
) -> None:
    """Nobody took its slots over, so it stayed in the registry, and was taken over from each second."""
    assert await set_layout(db, Layout(STREAM, order="aggregate")) is None
    one = await keep("beef0001")
    await one.look()
    assert await owners(db) == {one.id: 256}
    epochs = "SELECT sum(epoch) FROM messaging.slot_owner"
    [(before,)] = await (await db.execute(epochs)).fetchall()
    await one.die(db)
    assert await set_layout(db, Layout(STREAM)) is None
    async with dispatcher() as running:
        await insert_events(db, 1)
        await running.tap.add_up(Settled, sent=1)
        gone = "SELECT FROM messaging.dispatcher AS d WHERE d.id = %s"

        await becomes(lambda: one_row(db, gone, one.id), False, "whether the dead one is in the registry")
    assert await owners(db) == {None: 256}
    assert (await (await db.execute(epochs)).fetchall()) == [(before + 256,)]


async def test_slots_stay_where_an_order_stays(db: Any, keep: Keep) -> None:
    assert await set_layout(db, Layout(STREAM, order="aggregate")) is None
    one = await keep("beef0001")
    await one.look()
    assert await set_layout(db, Layout(STREAM, 4, order="aggregate")) is None
    assert await owners(db) == {one.id: 256}


async def test_a_database_without_an_order_is_rid_of_owners_by_the_migration(db: Any, keep: Keep) -> None:
    one = await keep("beef0001")
    await one.look()
    [migration] = [each for each in migrations() if each.name == "20261215_layout_set"]
    await db.execute(migration.sql)
    assert await owners(db) == {None: 256}
