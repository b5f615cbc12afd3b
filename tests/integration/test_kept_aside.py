"""What Postgres refuses to settle leaves its lane: other rows go on, and it is not published again."""

from collections.abc import AsyncIterator
from random import Random
from typing import Any

import anyio
import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.core.events import Claimed, Settled, StatementRefused, Stopping, TakenOver, Ticked
from dispatcher.core.incarnation import RedisIncarnation
from dispatcher.core.outcome import BatchOutcomes, Done, Sent
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.stages.claim import claim, new_claim_id
from tests.support.handlers import MakeModule
from tests.support.rows import STREAM, insert_events, read_stream, read_table, statuses
from tests.support.running import Running, StartDispatcher
from tests.support.settler import make_settler
from tests.support.tap import Tap
from tests.support.waiting import becomes, until

Db = psycopg.AsyncConnection[Any]
REFUSE = """
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not this one'; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON messaging.message_outbox FOR EACH ROW WHEN ({when})
    EXECUTE FUNCTION public.refuse()
"""
SENT = "NEW.status = 'sent'"
SOME = f"{SENT} AND NEW.aggregate_id IN ('a3', 'a50', 'a51', 'a299')"


async def refuse(db: Db, when: str) -> None:
    await db.execute(REFUSE.format(when=when))


async def allow(db: Db) -> None:
    await db.execute("DROP TRIGGER refuse ON messaging.message_outbox")


@pytest.fixture(params=["stream", "handlers"])
def where(request: pytest.FixtureRequest, handlers_module: MakeModule) -> tuple[list[object], dict[str, Any]]:
    """What handlers were called with, and the settings of a dispatcher that has them or none."""
    called: list[object] = []
    if request.param == "stream":
        return called, {}
    return called, {"handlers": handlers_module({"order.created": lambda payload: called.append(payload)})}


def unfinished(running: Running) -> int:
    return running.service._engine.unfinished()


async def test_rows_that_are_refused_hold_up_no_others(
    dispatcher: StartDispatcher, db: Db, redis: Redis, where: tuple[list[object], dict[str, Any]]
) -> None:
    """Nor are they taken over, by ourselves or by a peer, while their owner lives."""
    called, handlers = where
    options = {"tick_ms": 50, "batch_size": 100, "lease_ms": 3000} | handlers
    async with dispatcher(**options) as running:
        await refuse(db, SOME)
        await insert_events(db, 300)
        await running.tap.add_up(Settled, sent=296)
        told = await running.tap.next(StatementRefused)
        assert (told.what, told.error) == ("settle", "RaiseException P0001: not this one")
        assert "it refuses to settle" in str(running.service.not_ready)
        assert unfinished(running) > 0  # a pause waits
        async with dispatcher(**options) as peer:
            await insert_events(db, 500, aggregate_id="b")
            await becomes(lambda: statuses(db), {"sent": 796, "picked": 4})
            picked = {row["id"]: row["picked_at"] for row in await read_table(db) if row["status"] == "picked"}

            async def renewed() -> bool:
                rows = [row for row in await read_table(db) if row["id"] in picked]
                return all((row["picked_at"] - picked[row["id"]]).total_seconds() > 6 for row in rows)

            await until(renewed, "the leases are renewed for twice their length")
            await allow(db)
            await becomes(lambda: statuses(db), {"sent": 800})
            assert (await running.tap.next(StatementRefused)).error is None
            assert running.service.not_ready is None
            assert running.tap.all(TakenOver) + peer.tap.all(TakenOver) == []
    assert unfinished(running) == 0
    assert len(await read_stream(redis)) + len(called) == 800


async def test_a_locked_row_holds_up_no_others(
    dispatcher: StartDispatcher, db: Db, database_url: str, handlers_module: MakeModule
) -> None:
    """Somebody locks rows that are claimed, and goes away; each settle of them waits for the longest of a statement."""
    go_on, called = anyio.Event(), list[object]()

    async def handle(payload: object) -> None:
        called.append(payload)
        await go_on.wait()

    handlers = handlers_module({"order.created": handle})
    async with dispatcher(tick_ms=50, query_timeout_ms=1000, max_parallel=20, handlers=handlers) as running:
        await insert_events(db, 20)
        await until(lambda: len(called) == 20, "all are handled")
        async with await psycopg.AsyncConnection.connect(database_url) as other:
            await other.execute("SELECT FROM messaging.message_outbox WHERE aggregate_id IN ('a7', 'a8') FOR UPDATE")
            go_on.set()
            await running.tap.add_up(Settled, sent=18)
            await insert_events(db, 500, aggregate_id="b")
            await running.tap.add_up(Settled, sent=500)
            assert await statuses(db) == {"sent": 518, "picked": 2}
        await running.tap.add_up(Settled, sent=2)
    assert len(called) == 520


async def test_when_all_is_refused_claims_stop(
    dispatcher: StartDispatcher, db: Db, redis: Redis, where: tuple[list[object], dict[str, Any]]
) -> None:
    called, handlers = where
    async with dispatcher(tick_ms=50, batch_size=10, **handlers) as running:
        await refuse(db, SENT)
        await insert_events(db, 1000)
        relay = running.service._engine.handlers or running.service._engine.stream.relay  # type: ignore[union-attr]
        aside = relay._aside if handlers else relay._settler.aside  # type: ignore[union-attr]
        await until(lambda: aside.room == 0, "the bound is reached")
        for _ in range(10):
            await running.tap.next(Ticked, lambda event: event.result == "error")
        assert (await statuses(db))["picked"] <= 2 * 4 * 10
        assert len(await read_stream(redis)) + len(called) <= 2 * 4 * 10
        await allow(db)
        await running.tap.add_up(Settled, sent=1000)
        assert sum(event.rows for event in running.tap.all(Claimed)) == 1000
    assert len(await read_stream(redis)) + len(called) == 1000


async def test_a_stop_gives_them_their_grace(
    dispatcher: StartDispatcher, db: Db, where: tuple[list[object], dict[str, Any]]
) -> None:
    async with dispatcher(tick_ms=50, shutdown_grace_ms=40_000, **where[1]) as running:
        await refuse(db, SENT)
        await insert_events(db, 20)
        await running.tap.next(StatementRefused)
        running.service.stop("a test")
        await running.tap.next(Stopping)
        await running.tap.next(Ticked, lambda event: event.result == "error")
        await allow(db)
    assert running.service.exit_code == 0
    assert await statuses(db) == {"sent": 20}


@pytest.fixture
async def link(database_url: str) -> AsyncIterator[ReconnectingSession]:
    """A session that is kept open."""
    made = ReconnectingSession(PostgresTarget(database_url, "test"), "lane-0", rng=Random(1))
    async with anyio.create_task_group() as tasks:
        await tasks.start(made.keep)
        yield made
        tasks.cancel_scope.cancel()


async def test_redis_may_move_meanwhile(db: Db, link: ReconnectingSession, tap: Tap) -> None:
    """Then all that is left is searched for, and none is settled as it was published."""
    searched: list[list[int]] = []

    async def moved(outcomes: BatchOutcomes, batch: Any) -> None:
        assert {row.id for row in batch.rows} >= set(outcomes.sent_ids)
        searched.append(sorted(outcomes.sent_ids))
        outcomes.doubt_sent()
        outcomes.incarnation = RedisIncarnation("second", "set", ((STREAM, 0),))
        for row_id in outcomes.unknown:
            outcomes.add(row_id, Sent("2-2"))
        outcomes.unknown.clear()

    settler = make_settler(tap)
    await db.execute(
        "INSERT INTO messaging.stream_server (stream, run_id, replid, last_id) VALUES (%s, 'first', 'set', '0-0')",
        (STREAM,),
    )
    ids = await insert_events(db, 5)
    batch = await claim(await link.get(), claim_id=new_claim_id(), dispatcher=None, limit=10)
    await refuse(db, f"{SENT} AND NEW.id = {ids[1]}")
    outcomes = BatchOutcomes.of(
        [(row_id, Sent("1-1")) for row_id in ids[:4]] + [(ids[4], Done())],
        RedisIncarnation("first", "set", ((STREAM, 0),)),
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(settler.aside.run, link)
        assert await settler.settle(link, batch.claim_id, outcomes, batch=batch, search_again=moved) is None
        await becomes(lambda: statuses(db), {"sent": 4, "picked": 1})
        assert settler.aside.claims == {batch.claim_id}
        assert settler.aside.room == 39
        await db.execute("UPDATE messaging.stream_server SET run_id = 'second'")
        await allow(db)
        settler.aside.stop()
    assert searched == [[ids[1]]]
    assert [row["stream_id"] for row in await read_table(db)] == ["1-1", "2-2", "1-1", "1-1", None]
