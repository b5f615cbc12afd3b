"""`in_order=True`: of writers that nothing else serialises, one gets its ids when the one before has committed."""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import anyio
import psycopg
import pytest
from anyio import to_thread
from django.db import connections

from dispatcher.client import Event, add_event, add_events, add_events_async, event
from tests.integration.test_client_producers import ASYNC, SYNC, AsyncTransaction, Transaction, with_django
from tests.support.readme import code, page
from tests.support.rows import read_table
from tests.support.waiting import until

FIRST = Event(event_type="a", aggregate_type="conversation", aggregate_id="1", payload={"first": True})
SECOND = Event(event_type="a", aggregate_type="conversation", aggregate_id=1, payload={"first": False})
OTHER = Event(event_type="a", aggregate_type="conversation", aggregate_id="2", payload={})

Second = Callable[[], Any]  # adds SECOND, and commits


@contextmanager
def open_first(url: str, **options: Any):
    """A transaction that has added FIRST, and is open; committed at the end."""
    with psycopg.connect(url) as connection:
        add_event(connection, FIRST, **options)
        yield connection


async def waiting(db: psycopg.AsyncConnection[Any], many: int = 1) -> bool:
    """Whether so many sessions of this database wait for an advisory lock."""
    query = (
        "SELECT FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database "
        "WHERE d.datname = current_database() AND l.locktype = 'advisory' AND NOT l.granted"
    )
    return (await db.execute(query)).rowcount == many


async def committed(db: psycopg.AsyncConnection[Any]) -> list[bool]:
    """Which events are committed, in the order of their ids."""
    return [row["payload"]["first"] for row in await read_table(db)]


async def two_writers(db: psycopg.AsyncConnection[Any], url: str, second: Second, *, in_order: bool) -> None:
    with open_first(url, in_order=in_order) as first:
        async with anyio.create_task_group() as writers:
            writers.start_soon(second)
            if in_order:
                await until(lambda: waiting(db), "the second writer waits for the first")
                assert await committed(db) == []
            else:
                await until(lambda: committed(db), "the second writer commits while the first is open")
                assert await committed(db) == [False], "a reader of committed rows sees the later id first"
            first.commit()
    assert await committed(db) == [True, False]


@pytest.mark.usefixtures("django_alias")
@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("transaction", SYNC)
async def test_of_two_writers(transaction: Transaction, many: bool, in_order: bool, db, database_url: str) -> None:
    def add() -> None:
        with transaction(database_url) as add:
            add([SECOND] if many else SECOND, many=many, in_order=in_order)
        if transaction is with_django:
            connections["here"].close()  # that of this thread

    await two_writers(db, database_url, lambda: to_thread.run_sync(add), in_order=in_order)


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("transaction", ASYNC)
async def test_of_two_async_writers(
    transaction: AsyncTransaction, many: bool, in_order: bool, db, database_url: str
) -> None:
    async def second() -> None:
        async with transaction(database_url) as add:
            await add([SECOND] if many else SECOND, many=many, in_order=in_order)

    await two_writers(db, database_url, second, in_order=in_order)


async def test_other_aggregates_do_not_wait(db, database_url: str) -> None:
    with open_first(database_url, in_order=True), psycopg.connect(database_url) as connection:
        add_event(connection, OTHER, in_order=True)
        connection.commit()
        assert [row["aggregate_id"] for row in await read_table(db)] == ["2"]


async def test_two_that_want_the_same_aggregates_in_other_orders_do_not_deadlock(db, database_url: str) -> None:
    def events(turned: bool) -> list[Event]:
        made = [Event(event_type="a", aggregate_id=number, payload={}) for number in range(20)]
        return made[::-1] if turned else made

    for number in range(20):  # whichever aggregate is locked first
        with psycopg.connect(database_url) as holder:
            add_event(holder, Event(event_type="a", aggregate_id=number, payload={}), in_order=True)

            async def add(turned: bool) -> None:
                async with await psycopg.AsyncConnection.connect(database_url) as connection:
                    await add_events_async(connection, events(turned), in_order=True)

            async with anyio.create_task_group() as writers:
                writers.start_soon(add, False)
                writers.start_soon(add, True)
                await until(lambda: waiting(db, 2), "both wait")
                holder.commit()


async def test_all_aggregates_are_locked_before_the_first_of_several_statements(
    db, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event, "MOST_AT_ONCE", 10)  # one event a statement
    seen: list[int] = []
    with psycopg.connect(database_url) as connection:
        execute = connection.cursor_factory.execute

        def noted(self: Any, *arguments: Any, **more: Any) -> Any:
            done = execute(self, *arguments, **more)
            count = (
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND pid = pg_backend_pid()"
            )
            [(locks,)] = execute(connection.cursor(), count).fetchall()
            seen.append(locks)
            return done

        monkeypatch.setattr(connection.cursor_factory, "execute", noted)
        add_events(connection, [FIRST, OTHER, SECOND], in_order=True)
        monkeypatch.undo()
    assert seen == [2, 2, 2]
    assert [row["aggregate_id"] for row in await read_table(db)] == ["1", "2", "1"]


async def test_the_line_of_sql_in_the_docs_takes_the_same_lock(db, database_url: str) -> None:
    line = code("Events of one aggregate in order", "sql", page("how-to/produce.md")).replace("/7'", "/1'")
    with open_first(database_url, in_order=True) as first:

        async def second() -> None:
            async with await psycopg.AsyncConnection.connect(database_url) as connection:
                await connection.execute(line.encode())

        async with anyio.create_task_group() as writers:
            writers.start_soon(second)
            await until(lambda: waiting(db), "the line of SQL waits for the helper")
            first.commit()
