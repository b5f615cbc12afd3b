"""What `manage.py check` says of the outbox. With `--database default` it looks into the database too."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from django.core.checks import CheckMessage, Error, Warning
from django.db import DatabaseError, connections, router

from dispatcher.client.django import schema
from dispatcher.client.django.apps import LABEL
from dispatcher.core.errors import Misconfigured
from dispatcher.core.outages import sqlstate_of

_FORBIDDEN = "42501"


def check_engine(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """An error when no database can hold the outbox. Asks no server."""
    allowed = [alias for alias in connections if router.allow_migrate(alias, LABEL)]
    if any(connections[alias].vendor == "postgresql" for alias in allowed):
        return []
    found = ", ".join(f"'{alias}' is {connections[alias].vendor}" for alias in allowed)
    return [
        Error(
            f"the outbox needs a database with the engine django.db.backends.postgresql: {found or 'no database'}",
            hint=f"Add one to DATABASES; with several, a router's allow_migrate says which has the app '{LABEL}'.",
            id=f"{LABEL}.E001",
        )
    ]


def check_schema(app_configs: Any = None, databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """An error or a warning for each of these databases whose outbox is missing, behind this release, changed, or out
    of reach. Asks the servers.
    """
    if sys.argv[1:2] == ["migrate"]:
        return []  # it is about to mend what we would say
    return [message for alias in databases or () if schema.hosts_outbox(alias) for message in _problems_of(alias)]


def _problems_of(alias: str) -> Iterator[CheckMessage]:
    try:
        known = schema.recorded(connections[alias])
        behind = [name for name, _ in schema.pending(known or {})]
    except Misconfigured as error:
        yield Error(f"the outbox in '{alias}': {error}", id=f"{LABEL}.E003")
        return
    except DatabaseError as error:
        if sqlstate_of(error) != _FORBIDDEN:  # a role that may only insert events need not know
            yield Warning(
                f"the outbox in '{alias}' cannot be looked at: {type(error).__name__} {sqlstate_of(error)}".rstrip(),
                hint="Is the server up, and do its address and password fit?",
                id=f"{LABEL}.W004",
            )
        return
    if known is None:
        yield Warning(
            f"there is no outbox in '{alias}': every add_event fails",
            hint=f"Run `manage.py migrate {LABEL} --database {alias}`, or `dispatcher migrate`.",
            id=f"{LABEL}.W002",
        )
    elif behind:
        yield Warning(
            f"the outbox in '{alias}' is behind this release: {', '.join(behind)}",
            hint=f"Run `manage.py migrate {LABEL} --database {alias}`, or `dispatcher migrate`.",
            id=f"{LABEL}.W002",
        )
