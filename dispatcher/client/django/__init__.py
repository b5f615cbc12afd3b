"""Adds events inside Django's `transaction.atomic`, remembers what a consumer has done, and is an installable app.

    INSTALLED_APPS = [..., "dispatcher.client.django"]

brings the outbox by `manage.py migrate`, unmanaged models to look at it, an admin of the dead events, and system
checks. Without it the functions work as well. Needs the extra `django`. In async code call them through
`sync_to_async`, as everything inside `atomic`.
"""

import uuid
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections

from dispatcher.client.event import Event, NoTransaction, arrays_of
from dispatcher.client.statements import OnDuplicate, statement, wrong
from dispatcher.infra import sqlfiles


def add_event(event: Event, using: str = DEFAULT_DB_ALIAS, *, on_duplicate: OnDuplicate = "raise") -> uuid.UUID:
    """Insert the event; its event_id. It is published when the atomic block commits, and gone when it rolls back.

    `using`: the alias of the database.
    `on_duplicate`: an event of the same event_id that is in the outbox is an error of the database ("raise"), or this
    one is left out ("ignore").
    Raises NoTransaction outside `transaction.atomic`, and ValueError for a field.
    """
    if not isinstance(event, Event):
        raise wrong("add_event", event, "an Event, which comes first here")
    with _in_transaction(using) as cursor:
        cursor.execute(statement("add_event", on_duplicate), event.parameters())
    return event.event_id


def add_events(
    events: Iterable[Event], using: str = DEFAULT_DB_ALIAS, *, on_duplicate: OnDuplicate = "raise"
) -> list[uuid.UUID]:
    """Insert many events by one statement, in one round trip; their event_ids. All of them or, on an error, none.

    Raises as add_event.
    """
    listed = list(events)
    with _in_transaction(using) as cursor:
        for array in arrays_of(listed):
            cursor.execute(statement("add_events", on_duplicate), {"events": array})
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
        cursor.execute(statement("first_time"), {"consumer": consumer, "event_id": str(event_id)})
        return cursor.fetchone() is not None


def forget(older_than: timedelta, limit: int = 10_000, using: str = DEFAULT_DB_ALIAS) -> int:
    """As dispatcher.client.inbox.forget: forget up to `limit` events that were handled longer ago; how many."""
    with connections[using].cursor() as cursor:
        cursor.execute(statement("forget"), {"older_than": older_than, "limit": limit})
        return int(cursor.fetchone()[0])


def _in_transaction(using: str) -> Any:
    """A cursor. Raises NoTransaction."""
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
