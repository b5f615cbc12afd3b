"""A trigger that undoes what a dispatcher writes: its rows are not published again and again, and it is named."""

import asyncio
from typing import Any

import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.core.events import Buried, Settled, StatementRefused, Woke
from dispatcher.handlers import Wait
from dispatcher.relay.handlers.relay import HandlerRelay
from tests.support.handlers import MakeModule
from tests.support.rows import insert_events, read_stream, read_table, statuses
from tests.support.running import StartDispatcher
from tests.support.waiting import becomes, pass_time, until

Db = psycopg.AsyncConnection[Any]
ROWS = 300
MAKE = """
CREATE FUNCTION public.undo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
CREATE TRIGGER undo {when} UPDATE ON messaging.message_outbox FOR EACH ROW EXECUTE FUNCTION public.undo()
"""
BACK = "UPDATE messaging.message_outbox SET status = 'pending', claim_id = NULL WHERE id = NEW.id"
UNDONE = {
    "the status stays": ("BEFORE", "NEW.status := OLD.status; RETURN NEW;"),
    "the claim id stays": ("BEFORE", "NEW.claim_id := OLD.claim_id; RETURN NEW;"),
    "of some rows": ("BEFORE", "IF NEW.id % 2 = 0 THEN NEW.status := OLD.status; END IF; RETURN NEW;"),
    "sent is pending": ("BEFORE", "IF NEW.status = 'sent' THEN NEW.status := 'pending'; END IF; RETURN NEW;"),
    "put back after a claim": ("AFTER", f"IF NEW.status = 'picked' THEN {BACK}; END IF; RETURN NULL;"),
    "a settle is swallowed": ("BEFORE", "IF NEW.status = 'sent' THEN RETURN NULL; END IF; RETURN NEW;"),
}


@pytest.mark.parametrize("how", UNDONE)
async def test_what_a_trigger_undoes_is_not_published_without_end(
    dispatcher: StartDispatcher, db: Db, redis: Redis, how: str
) -> None:
    when, body = UNDONE[how]
    async with dispatcher(tick_ms=50, batch_size=50) as running:
        await db.execute(MAKE.format(when=when, body=body))
        await insert_events(db, ROWS)
        told = await running.tap.next(StatementRefused, lambda event: event.what == "claim")
        assert "undo, which runs undo()" in (told.error or "")
        assert "undo" in str(running.service.not_ready)
        assert len(await read_stream(redis)) <= 2 * ROWS
        await db.execute("DROP TRIGGER undo ON messaging.message_outbox")
        await running.tap.next(StatementRefused, lambda event: event.what == "claim" and event.error is None)
        await becomes(lambda: statuses(db), {"sent": ROWS})
    assert len(await read_stream(redis)) <= 3 * ROWS


SENT_BACK = "UPDATE messaging.message_outbox SET status = 'pending', claim_id = NULL WHERE id = NEW.id"


@pytest.mark.parametrize("handled", [False, True])
async def test_what_is_put_back_behind_the_settle_is_noticed(
    dispatcher: StartDispatcher, db: Db, redis: Redis, handlers_module: MakeModule, handled: bool
) -> None:
    """The settle itself says that all is well."""
    called: list[object] = []
    handlers = handlers_module({"order.created": called.append}) if handled else None
    async with dispatcher(tick_ms=50, batch_size=50, handlers=handlers) as running:
        await db.execute(
            MAKE.format(when="AFTER", body=f"IF NEW.status = 'sent' THEN {SENT_BACK}; END IF; RETURN NULL;")
        )
        await insert_events(db, ROWS)
        told = await running.tap.next(StatementRefused)
        assert "undo, which runs undo()" in (told.error or "")
        assert "settle-sent" in (told.error or "")
        assert "undo" in str(running.service.not_ready)
        assert len(called) + len(await read_stream(redis)) <= 3 * ROWS
        await db.execute("DROP TRIGGER undo ON messaging.message_outbox")
        assert (await running.tap.next(StatementRefused)).error is None
        await becomes(lambda: statuses(db), {"sent": ROWS})


@pytest.mark.parametrize("when", ["AFTER", "BEFORE"])
async def test_a_row_that_is_put_back_again_and_again_ends(
    dispatcher: StartDispatcher, db: Db, redis: Redis, when: str
) -> None:
    """Only some rows: the trials do not meet it."""
    back = "NEW.status := 'pending'" if when == "BEFORE" else SENT_BACK
    body = f"IF NEW.status = 'sent' AND NEW.payload = '{{\"n\": 7}}' THEN {back}; END IF; RETURN NEW;"
    async with dispatcher(tick_ms=50) as running:
        await db.execute(MAKE.format(when=when, body=body))
        await insert_events(db, ROWS)
        [(guilty, error)] = (await running.tap.next(Buried)).rows
        assert "undo, which runs undo()" in error
        await becomes(lambda: statuses(db), {"sent": ROWS - 1, "dead": 1})
        assert [row["payload"] for row in await read_table(db) if row["id"] == guilty] == [{"n": 7}]
        assert len(await read_stream(redis)) <= ROWS + 5


async def test_what_a_person_puts_back_again_and_again_goes_out_each_time(
    dispatcher: StartDispatcher, db: Db, redis: Redis
) -> None:
    await db.execute(MAKE.format(when="AFTER", body="RETURN NULL;").replace("UPDATE ON", "DELETE ON"))
    async with dispatcher(tick_ms=50) as running:
        await insert_events(db)
        for _ in range(12):
            await running.tap.add_up(Settled, sent=1)
            await db.execute("UPDATE messaging.message_outbox SET status = 'pending'")
        await running.tap.add_up(Settled, sent=1)
    assert len(await read_stream(redis)) == 13


HARMLESS = MAKE.format(when="AFTER", body="RETURN NULL;")


@pytest.mark.promise("redis-outage")
async def test_a_row_that_a_person_put_back_waits_for_redis_and_is_not_buried(
    dispatcher: StartDispatcher, db: Db, own_valkey: Any
) -> None:
    """It is claimed and given back again and again: none of these claims follows a settle that somebody undid."""
    server = own_valkey()
    async with Redis.from_url(server.url) as redis, dispatcher(redis_url=server.url, tick_ms=20) as running:
        await db.execute(HARMLESS)
        await insert_events(db)
        await running.tap.add_up(Settled, sent=1)
        await redis.config_set("maxmemory", "1")
        await db.execute("UPDATE messaging.message_outbox SET status = 'pending'")
        await running.tap.add_up(Settled, released=8)
        await redis.config_set("maxmemory", "0")
        await running.tap.add_up(Settled, sent=1)
    assert await statuses(db) == {"sent": 1}


@pytest.mark.promise("handler-wait")
async def test_a_row_that_a_person_put_back_waits_for_its_handler_and_is_not_buried(
    dispatcher: StartDispatcher, db: Db, handlers_module: MakeModule
) -> None:
    called: list[object] = []

    async def handle(payload: object) -> None:
        called.append(payload)
        if 1 < len(called) < 10:
            raise Wait(0.1)

    async with dispatcher(handlers=handlers_module({"order.created": handle}), tick_ms=20) as running:
        await db.execute(HARMLESS)
        await insert_events(db)
        await running.tap.add_up(Settled, sent=1)
        await db.execute("UPDATE messaging.message_outbox SET status = 'pending'")
        await running.tap.add_up(Settled, sent=1)
    assert await statuses(db) == {"sent": 1}


async def test_some_rows_whose_settle_is_swallowed_are_kept_aside(
    dispatcher: StartDispatcher, db: Db, redis: Redis
) -> None:
    body = "IF NEW.status = 'sent' AND NEW.id % 10 = 0 THEN RETURN NULL; END IF; RETURN NEW;"
    async with dispatcher(tick_ms=50, lease_ms=1000) as running:
        await db.execute(MAKE.format(when="BEFORE", body=body))
        await insert_events(db, ROWS)
        told = await running.tap.next(StatementRefused)
        assert told.what == "settle"
        assert "undo, which runs undo()" in (told.error or "")
        await becomes(lambda: statuses(db), {"sent": ROWS * 9 // 10, "picked": ROWS // 10})
        await pass_time(2.5)  # two leases
        assert "undo" in str(running.service.not_ready)
        await db.execute("DROP TRIGGER undo ON messaging.message_outbox")
        await becomes(lambda: statuses(db), {"sent": ROWS})
        await until(lambda: running.service.not_ready is None, "it is ready again")
    assert len(await read_stream(redis)) == ROWS


async def test_handlers_are_not_called_without_end(
    dispatcher: StartDispatcher, db: Db, handlers_module: MakeModule
) -> None:
    called: list[object] = []
    handlers = handlers_module({"order.created": called.append})
    async with dispatcher(tick_ms=50, batch_size=50, handlers=handlers) as running:
        when, body = UNDONE["put back after a claim"]
        await db.execute(MAKE.format(when=when, body=body))
        await insert_events(db, ROWS)
        told = await running.tap.next(StatementRefused)
        assert "undo, which runs undo()" in (told.error or "")
        assert len(called) <= 2 * ROWS
        await db.execute("DROP TRIGGER undo ON messaging.message_outbox")
        await running.tap.add_up(Settled, sent=ROWS)


async def test_claims_that_are_swallowed_publish_nothing(dispatcher: StartDispatcher, db: Db, redis: Redis) -> None:
    async with dispatcher(tick_ms=50) as running:
        await db.execute(MAKE.format(when="BEFORE", body="RETURN NULL;"))
        await insert_events(db, ROWS)
        for _ in range(20):
            await running.tap.next(Woke)
        assert await read_stream(redis) == []
        await db.execute("DROP TRIGGER undo ON messaging.message_outbox")
        await running.tap.add_up(Settled, sent=ROWS)
    assert await statuses(db) == {"sent": ROWS}


async def test_nobodys_settles_are_rolled_back_with_the_trials(
    dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db
) -> None:
    """The handlers' claims and settles share a session, and the trials are one transaction on it."""

    relays: list[HandlerRelay] = []

    async def handle(payload: dict[str, int]) -> None:
        for relay in relays:
            relay._claimer.run_trials_first()  # the next claim begins with the trials
        await asyncio.sleep(0.005 * (payload["n"] % 10))

    async with dispatcher(handlers=handlers_module({"work": handle}), unrouted="dead") as running:
        relays += [relay for relay in [running.service._engine.handlers] if relay is not None]
        await insert_events(db, 200, event_type="work")
        await running.tap.add_up(Settled, sent=200)
        assert await statuses(db) == {"sent": 200}
