"""A dispatcher inside the test's own process, where its asyncio tasks can be counted before and after a fault."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.core.events import BreakerChanged, ListenerChanged
from tests.support.proxy import Proxy, StartProxy
from tests.support.rows import insert_events, read_stream, statuses
from tests.support.running import Running, StartDispatcher
from tests.support.waiting import until

Db = psycopg.AsyncConnection[Any]
Break = Callable[[Running, Proxy, Proxy], Awaitable[None]]


def tasks() -> Counter[str]:
    """How many tasks of each name run, but for the test's own and the proxies'."""
    ours = asyncio.current_task()
    names = (task.get_name() for task in asyncio.all_tasks() if task is not ours)
    return Counter(name for name in names if not name.startswith(("Task-", "proxy")))


async def postgres_cut(running: Running, postgres: Proxy, redis: Proxy) -> None:
    running.tap.forget()
    postgres.cut(reset=True)
    await running.tap.next(ListenerChanged, where=lambda event: event.up)


async def redis_cut(running: Running, postgres: Proxy, redis: Proxy) -> None:
    running.tap.forget()
    redis.cut(reset=True)


async def redis_refuses(running: Running, postgres: Proxy, redis: Proxy) -> None:
    running.tap.forget()
    redis.refuse()
    redis.cut()
    await running.tap.next(BreakerChanged, where=lambda event: event.state == "open")
    await redis.restore()
    await running.tap.next(BreakerChanged, where=lambda event: event.state == "closed")


@pytest.mark.promise("mixture")
@pytest.mark.quick
@pytest.mark.parametrize("fault", [postgres_cut, redis_cut, redis_refuses])
async def test_tasks_are_back_at_their_baseline(
    dispatcher: StartDispatcher,
    db: Db,
    redis: Redis,
    proxy: StartProxy,
    database_url: str,
    redis_url: str,
    fault: Break,
) -> None:
    postgres, between = await proxy(database_url), await proxy(redis_url)
    urls = {"database_url": postgres.via(database_url), "redis_url": between.via(redis_url)}
    async with dispatcher(tick_ms=100, **urls) as running:
        await insert_events(db, 10)
        await until(lambda: _sent(db, 10), "the first rows are sent")
        before = tasks()
        for turn in range(2, 6):
            await fault(running, postgres, between)
            await insert_events(db, 10)
            await until(lambda turn=turn: _sent(db, 10 * turn), "rows are sent again")  # type: ignore[misc]
            if turn == 2:
                before |= tasks()  # what is started when it is first needed

        async def no_more() -> bool:  # one that had just ended by then is no leak
            return tasks() <= before

        await until(no_more, f"no tasks but {before} are left")
        assert before.total() > 5
    events = [entry["event_id"] for entry in await read_stream(redis)]
    assert len(events) == len(set(events)) == 50


async def _sent(db: Db, rows: int) -> bool:
    return await statuses(db) == {"sent": rows}
