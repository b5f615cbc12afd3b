"""Adds an event inside Django's `transaction.atomic`.

Needs the extra `django`. In async code call it through `sync_to_async`, as everything inside `atomic`.
"""

import uuid
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections

from dispatcher.client.event import Event, NoTransaction
from dispatcher.infra import sqlfiles


def add_event(event: Event, using: str = DEFAULT_DB_ALIAS) -> uuid.UUID:
    """Insert the event; its event_id. It is published when the atomic block commits, and gone when it rolls back.

    `using`: the alias of the database. Raises NoTransaction outside `transaction.atomic`, and ValueError for a field.
    """
    with _cursor(using) as cursor:
        cursor.execute(sqlfiles.client("add_event"), event.parameters())
    return event.event_id


def first_time(consumer: str, event_id: uuid.UUID, using: str = DEFAULT_DB_ALIAS) -> bool:
    """As dispatcher.client.inbox.first_time: whether this consumer has not handled the event; remembers it."""
    with _cursor(using) as cursor:
        cursor.execute(sqlfiles.client("first_time"), {"consumer": consumer, "event_id": str(event_id)})
        return cursor.fetchone() is not None


def _cursor(using: str) -> Any:
    connection = connections[using]
    if connection.get_autocommit():
        raise NoTransaction(
            f"the Django connection '{using}' is in no transaction: call this inside the `with transaction.atomic():` "
            "that changes your data"
        )
    return connection.cursor()
