"""Adds events on a connection of asyncpg, in its open transaction, and remembers what a consumer has done.

A connection that a pool lent (`async with pool.acquire() as connection`) is as good. Needs asyncpg
(the extra `asyncpg` brings it).
"""

import uuid
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import asyncpg

from dispatcher.client.event import Event, NoTransaction, handled, many_events, one_event
from dispatcher.client.statements import OnDuplicate, adding, numbered, wrong
from dispatcher.infra import sqlfiles

Connection = Any  # asyncpg.Connection, or the proxy for it that a pool lends


async def add_event(
    connection: Connection, event: Event, *, on_duplicate: OnDuplicate = "raise", in_order: bool = False
) -> uuid.UUID:
    """Insert the event; its event_id. It is published when the transaction commits, and gone when it rolls back.

    `on_duplicate`: an event of the same event_id that is in the outbox is an error of the database ("raise"), or this
    one is left out ("ignore").
    `in_order`: wait until other transactions that added an event of this aggregate in order have ended. Use it, in
    every place that adds such events, where nothing else serialises the writers of an aggregate.
    Raises NoTransaction outside `connection.transaction()`, and ValueError for a field.
    """
    _require_transaction(connection, "add_event")
    name, parameters = one_event(event, in_order)
    sql, names = numbered(name, on_duplicate)
    with adding():
        await connection.execute(sql, *(parameters[each] for each in names))
    return event.event_id


async def add_events(
    connection: Connection, events: Iterable[Event], *, on_duplicate: OnDuplicate = "raise", in_order: bool = False
) -> list[uuid.UUID]:
    """Insert many events by one statement, in one round trip; their event_ids. All of them or, on an error, none.

    `in_order`: as of add_event, for all aggregates of these events, without a deadlock between two such calls.
    Raises as add_event.
    """
    _require_transaction(connection, "add_events")
    listed = list(events)
    name, runs = many_events(listed, in_order)
    sql, names = numbered(name, on_duplicate)
    with adding():
        for parameters in runs:
            await connection.execute(sql, *(parameters[each] for each in names))
    return [event.event_id for event in listed]


async def create_table(connection: Connection) -> None:
    """As dispatcher.client.inbox.create_table: create `handled_event`, if it is not there."""
    _require(connection, "create_table")
    if await connection.fetchval("SELECT to_regclass('handled_event') IS NULL"):
        await connection.execute(sqlfiles.client("handled_event"))


async def first_time(connection: Connection, consumer: str, event_id: uuid.UUID) -> bool:
    """As dispatcher.client.inbox.first_time: whether this consumer has not handled the event; remembers it."""
    _require_transaction(connection, "first_time")
    sql, names = numbered("first_time")
    parameters = handled(consumer, event_id)
    return await connection.fetchval(sql, *(parameters[name] for name in names)) is not None


async def forget(connection: Connection, older_than: timedelta, limit: int = 10_000) -> int:
    """As dispatcher.client.inbox.forget: forget up to `limit` events that were handled longer ago; how many."""
    _require(connection, "forget")
    sql, names = numbered("forget")
    parameters = {"older_than": older_than, "limit": limit}
    return int(await connection.fetchval(sql, *(parameters[name] for name in names)))


def _require(connection: Any, name: str) -> None:
    if not isinstance(connection, asyncpg.Connection | asyncpg.pool.PoolConnectionProxy):
        raise wrong(name, connection, "a connection of asyncpg")


def _require_transaction(connection: Any, name: str) -> None:
    _require(connection, name)
    if not connection.is_in_transaction():
        raise NoTransaction(
            "this asyncpg connection is in no transaction: call this inside the `async with connection.transaction():` "
            "that does the work"
        )
