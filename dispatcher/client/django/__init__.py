"""Adds events inside Django's `transaction.atomic`, remembers what a consumer has done, and is an installable app.

    INSTALLED_APPS = [..., "dispatcher.client.django"]

brings the outbox by `manage.py migrate`, unmanaged models to look at it, an admin of the dead events, and system
checks. Without it the functions work as well. Needs Django (the extra `django` brings it). In async code call them
through `sync_to_async`, as everything inside `atomic`.
"""

import uuid
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections

from dispatcher.client.event import Event, NoTransaction, handled, many_events, one_event
from dispatcher.client.statements import OnDuplicate, adding, statement, wrong
from dispatcher.infra import sqlfiles


def add_event(
    event: Event, using: str = DEFAULT_DB_ALIAS, *, on_duplicate: OnDuplicate = "raise", in_order: bool = False
) -> uuid.UUID:
    """Insert the event; its event_id. It is published when the atomic block commits, and gone when it rolls back.

    `using`: the alias of the database.
    `on_duplicate`: an event of the same event_id that is in the outbox is an error of the database ("raise"), or this
    one is left out ("ignore").
    `in_order`: wait until other transactions that added an event of this aggregate in order have ended. Use it, in
    every place that adds such events, where nothing else serialises the writers of an aggregate.
    Raises NoTransaction outside `transaction.atomic`, and ValueError for a field.
    """
    if not isinstance(event, Event):
        raise wrong("add_event", event, "an Event, which comes first here")
    with adding(), _in_transaction(using) as cursor:
        name, parameters = one_event(event, in_order)
        cursor.execute(statement(name, on_duplicate), parameters)
    return event.event_id


def add_events(
    events: Iterable[Event],
    using: str = DEFAULT_DB_ALIAS,
    *,
    on_duplicate: OnDuplicate = "raise",
    in_order: bool = False,
) -> list[uuid.UUID]:
    """Insert many events by one statement, in one round trip; their event_ids. All of them or, on an error, none.

    `in_order`: as of add_event, for all aggregates of these events, without a deadlock between two such calls.
    Raises as add_event.
    """
    listed = list(events)
    with adding(), _in_transaction(using) as cursor:
        name, runs = many_events(listed, in_order)
        for parameters in runs:
            cursor.execute(statement(name, on_duplicate), parameters)
    return [event.event_id for event in listed]


def create_table(using: str = DEFAULT_DB_ALIAS) -> None:
    """As dispatcher.client.inbox.create_table: create `handled_event`, if it is not there."""
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT to_regclass('handled_event') IS NULL")
        if cursor.fetchone()[0]:
            cursor.execute(sqlfiles.client("handled_event"))


def first_time(consumer: str, event_id: uuid.UUID, using: str = DEFAULT_DB_ALIAS) -> bool:
    """As dispatcher.client.inbox.first_time: whether this consumer has not handled the event; remembers it."""
    with _in_transaction(using) as cursor:
        cursor.execute(statement("first_time"), handled(consumer, event_id))
        return cursor.fetchone() is not None


def forget(older_than: timedelta, limit: int = 10_000, using: str = DEFAULT_DB_ALIAS) -> int:
    """As dispatcher.client.inbox.forget: forget up to `limit` events that were handled longer ago; how many."""
    with connections[using].cursor() as cursor:
        cursor.execute(statement("forget"), {"older_than": older_than, "limit": limit})
        return int(cursor.fetchone()[0])


def _in_transaction(using: str) -> Any:
    """A cursor in the open transaction. Raises NoTransaction when none is open, or that of the TestCase only."""
    connection = connections[using]
    if connection.get_autocommit():
        raise NoTransaction(
            f"the Django connection '{using}' is in no transaction: call this inside the `with transaction.atomic():` "
            "that changes your data"
        )
    blocks = connection.atomic_blocks
    # The code would pass its tests, and fail in production. Django judges `atomic(durable=True)` in the same way.
    if blocks and all(getattr(block, "_from_testcase", False) for block in blocks):
        raise NoTransaction(
            f"only the transaction of the TestCase is open on the Django connection '{using}', and in production there "
            "is none: call this inside the `with transaction.atomic():` that changes your data"
        )
    return connection.cursor()
