"""What is looked up only while somebody watches the console."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from dispatcher.core.events import Sampled, Surveyed
from dispatcher.infra.postgres.session import PostgresTarget, Session, connect
from dispatcher.upkeep import gauges, survey
from dispatcher.upkeep.attention import LASTS_S, Attention
from dispatcher.upkeep.registry import Registry
from tests.support.rows import STREAM, insert_events


@pytest.fixture
async def session(database_url: str) -> AsyncIterator[Session]:
    session = await connect(PostgresTarget(database_url, "dispatcher"), "survey")
    yield session
    await session.close()


async def bury(db, n: int = 1) -> list[int]:
    """Dead rows, each with its open copy."""
    ids = await insert_events(db, n, status="dead", last_error="redis: ERR")
    await db.execute(
        "INSERT INTO messaging.message_dlq (outbox_id, event_id, message_id, event_type, aggregate_type, aggregate_id,"
        " payload, attempts, occurred_at) SELECT id, event_id, message_id, event_type, aggregate_type, aggregate_id,"
        " payload, attempts, occurred_at FROM messaging.message_outbox WHERE id = ANY(%s)",
        [ids],
    )
    return ids


async def test_who_runs(session, tap):
    await Registry("ours").enrol(session)
    await survey.survey_once(session.fetch, tap)
    [one] = (await tap.next(Surveyed)).dispatchers
    assert one.name == "ours"
    assert abs(one.started_at - datetime.now(UTC).timestamp()) < 60


async def test_what_is_dead_and_since_when(session, db, redis, tap):
    first, again, pruned = await bury(db, 3)
    # A row that was sent, replayed by hand and died then; one that somebody marked dead, so that it has no copy.
    await db.execute("UPDATE messaging.message_outbox SET sent_at = clock_timestamp() WHERE id = %s", [again])
    await insert_events(db, status="dead")
    replayed = "UPDATE messaging.message_outbox SET status = 'pending' WHERE id = %s"
    await db.execute(replayed, [first])
    await db.execute("DELETE FROM messaging.message_outbox WHERE id = %s", [pruned])
    await gauges.sample_once(session.fetch, redis, STREAM, tap)
    seen = await tap.next(Sampled)
    assert seen.dead == 3
    assert seen.newest_dead_at is not None
    assert abs(seen.newest_dead_at - datetime.now(UTC).timestamp()) < 60


async def test_a_copy_that_was_replayed_is_not_the_newest_dead(session, db, redis, tap):
    await bury(db)
    await db.execute("UPDATE messaging.message_dlq SET replayed_at = clock_timestamp()")
    await db.execute("UPDATE messaging.message_outbox SET status = 'pending'")
    await gauges.sample_once(session.fetch, redis, STREAM, tap)
    seen = await tap.next(Sampled)
    assert (seen.dead, seen.newest_dead_at) == (0, None)


async def test_the_count_of_the_dead_is_bounded(session, db, redis, tap, monkeypatch):
    monkeypatch.setattr(gauges, "DEAD_BOUND", 3)
    await bury(db, 5)
    await gauges.sample_once(session.fetch, redis, STREAM, tap)
    assert (await tap.next(Sampled)).dead == 3


@pytest.mark.promise("console")
async def test_nobody_asks_postgres_until_somebody_watches(session, tap):
    attention = Attention()
    asked = anyio.Event()

    async def fetch(sql: str, params: Any) -> Any:
        asked.set()
        return await session.fetch(sql, params)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(survey.run, fetch, attention, tap)
        await anyio.wait_all_tasks_blocked()
        assert not asked.is_set()
        attention.look()
        await tap.next(Surveyed)
        tasks.cancel_scope.cancel()


async def test_a_look_counts_for_half_a_minute_and_wakes_everybody_who_rests():
    now = 0.0
    attention = Attention(clock=lambda: now)
    woken = []
    async with anyio.create_task_group() as tasks:

        async def rest(name: str) -> None:
            await attention.rest(3600.0, 3600.0)
            woken.append(name)

        for name in "ab":
            tasks.start_soon(rest, name)
        await anyio.wait_all_tasks_blocked()
        attention.look()
    assert sorted(woken) == ["a", "b"]
    now = LASTS_S - 0.1
    assert attention.there
    await attention.begun()
    now = LASTS_S
    assert not attention.there


async def test_the_gauges_look_at_once_when_somebody_begins_to_watch(session, redis_url, redis, tap):
    attention = Attention()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(
            lambda: gauges.run(
                session.fetch, lambda: redis_url, "gauges", STREAM, tap, every_s=3600.0, attention=attention
            )
        )
        await tap.next(Sampled)
        attention.look()
        await tap.next(Sampled)
        tasks.cancel_scope.cancel()


async def test_a_redis_that_forbids_the_look_is_not_away(session, tap):
    class Forbids(Redis):
        async def xlen(self, name: Any) -> int:
            raise NoPermissionError("this user has no permissions to run the 'xlen' command")

    await gauges.sample_once(session.fetch, Forbids(), STREAM, tap)
    seen = await tap.next(Sampled)
    assert (seen.stream_length, seen.redis_error) == (None, None)
