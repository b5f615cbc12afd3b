"""Django's ORM in handlers and consumers: connections that Postgres ended are no reason to fail for ever."""

import threading
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from redis import asyncio as aio

from dispatcher.client.consumer import Received
from dispatcher.core.events import Settled
from tests.support.consumers import consuming, group, publish, until_nothing_is_pending
from tests.support.handlers import MakeModule
from tests.support.rows import insert_events, read_table
from tests.support.running import StartDispatcher
from tests.support.waiting import becomes

Db = psycopg.AsyncConnection[Any]
NAME = "the application"


class Orm:
    """Work with Django's ORM, in whichever thread: counts what was done, and says which sessions did it."""

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self.done: list[int] = []
        self.threads: set[str] = set()

    def __call__(self, last: bool) -> None:
        from django.db import connections

        with connections[self._alias].cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            self.done.append(cursor.fetchone()[0])
        self.threads.add(threading.current_thread().name)
        if last:
            connections[self._alias].close()


@pytest.fixture
def orm(django_alias: str) -> Orm:
    from django.db import connections

    alias = f"kept-{uuid4().hex}"  # threads that outlive a test remember the settings of an alias
    kept = {"CONN_MAX_AGE": None, "OPTIONS": {"application_name": NAME}}
    connections.settings[alias] = connections.settings[django_alias] | kept
    return Orm(alias)


async def end_sessions(db: Db) -> None:
    ended = await db.execute(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = %s", (NAME,)
    )
    assert ended.rowcount > 0


@pytest.mark.promise("django")
@pytest.mark.parametrize("kind", ["thread", "task"])
async def test_a_handler_goes_on_after_its_sessions_were_ended(
    kind: str, dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db, orm: Orm
) -> None:
    from asgiref.sync import sync_to_async

    def in_a_thread(payload: dict[str, Any]) -> None:
        orm("last" in payload)

    async def on_the_loop(payload: dict[str, Any]) -> None:
        await sync_to_async(orm)("last" in payload)

    name = handlers_module({"mail": in_a_thread if kind == "thread" else on_the_loop})
    async with dispatcher(handlers=name, max_parallel=1, max_attempts=2, backoff_base_ms=10) as running:
        for _ in range(2):
            await insert_events(db, 2, event_type="mail")
            await running.tap.add_up(Settled, sent=2)
            await end_sessions(db)
        await insert_events(db, 5, event_type="mail")
        await running.tap.add_up(Settled, sent=5)
        await insert_events(db, event_type="mail", payload='{"last": true}')
        await running.tap.add_up(Settled, sent=1)
    assert {row["attempts"] for row in await read_table(db)} == {0}
    assert len(set(orm.done)) == 3


@pytest.mark.promise("django")
@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
async def test_a_consumer_goes_on_after_its_sessions_were_ended(
    kind: str, redis: "aio.Redis", redis_url: str, db: Db, orm: Orm
) -> None:
    from asgiref.sync import sync_to_async
    from django.db import OperationalError

    def behave(event: Received) -> None:
        orm(event.aggregate_id == "last")

    async with consuming(kind, redis_url, group(), behave, outages=(OperationalError,)) as running:
        if kind == "asyncio":
            running.behave_async(sync_to_async(behave))
        for _ in range(2):
            await publish(redis, "first")
            assert (await running.next()).deliveries == 1
            await until_nothing_is_pending(redis)
            await end_sessions(db)
        for name in ("a", "b", "last"):
            await publish(redis, name)
        await becomes(lambda: len(orm.done), 5, "how often the work was done")
    assert len(set(orm.done)) == 3
