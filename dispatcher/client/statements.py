"""The SQL of the client for each driver's style of parameters, and who is called with what it cannot use."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

from dispatcher.core.outages import sqlstate_of
from dispatcher.infra import sqlfiles

OnDuplicate = Literal["raise", "ignore"]

UNDEFINED_TABLE = "42P01"
NO_OUTBOX = "The outbox is not in this database: run `dispatcher migrate`, or connect to the database that has it."

_PARAMETER = re.compile(r"%\((\w+)\)s")


@cache
def statement(name: str, on_duplicate: OnDuplicate = "raise") -> str:
    """sql/client/<name>.sql without its comments, with parameters as psycopg has them. Raises ValueError."""
    if on_duplicate not in ("raise", "ignore"):
        raise ValueError(f"on_duplicate is {on_duplicate!r}: it must be 'raise' or 'ignore'")
    lines = [line.partition(" --")[0] for line in sqlfiles.client(name).splitlines() if not line.startswith("--")]
    # Without its target: a producer that may only INSERT has no right to name the column.
    return "\n".join(lines) + ("\nON CONFLICT DO NOTHING" if on_duplicate == "ignore" else "")


@cache
def named(name: str, on_duplicate: OnDuplicate = "raise") -> str:
    """The same with parameters as SQLAlchemy has them: `:event_id`."""
    return _PARAMETER.sub(r":\1", statement(name, on_duplicate))


@cache
def numbered(name: str, on_duplicate: OnDuplicate = "raise") -> tuple[str, tuple[str, ...]]:
    """The same with parameters as asyncpg has them, `$1`, and their names in that order."""
    sql = statement(name, on_duplicate)
    names = tuple(dict.fromkeys(_PARAMETER.findall(sql)))
    return _PARAMETER.sub(lambda found: f"${names.index(found[1]) + 1}", sql), names


@contextmanager
def adding() -> Iterator[None]:
    """Around the INSERT: a driver's error that says only that a table is missing gets a note on what to do."""
    try:
        yield
    except Exception as error:
        # The class stays the driver's: an application catches that. A trigger of its own may miss another table.
        if sqlstate_of(error) == UNDEFINED_TABLE and "message_outbox" in str(error):
            error.add_note(NO_OUTBOX)
        raise


_INSTEAD = {
    "psycopg": "dispatcher.client has {name}(connection, ...), and {name}_async for an AsyncConnection",
    "psycopg_pool": "take a connection out of the pool, and use it with dispatcher.client",
    "sqlalchemy": "dispatcher.client.sqlalchemy has {name} for a Session or a Connection, and {name}_async for an "
    "AsyncSession or an AsyncConnection",
    "sqlmodel": "dispatcher.client.sqlalchemy has {name} for a Session, and {name}_async for an AsyncSession",
    "asyncpg": "dispatcher.client.asyncpg has {name} for a connection of asyncpg, inside its transaction",
    "django": "dispatcher.client.django has {name}, which needs no connection, inside transaction.atomic",
    "psycopg2": "there is no helper for psycopg2 alone: run the INSERT, or use SQLAlchemy or Django",
}
_NO_TRANSACTION = {"Engine", "AsyncEngine", "sessionmaker", "async_sessionmaker", "Pool", "ConnectionPool"}


def wrong(name: str, given: object, wanted: str, *, called: str = "") -> TypeError:
    """The error for a connection of another kind: what it is, what is wanted, and which function takes it.

    `called`: the function, if its name is not `name`.
    """
    kind = type(given)
    root = next((root for each in kind.__mro__ if (root := each.__module__.partition(".")[0]) in _INSTEAD), "")
    hint = f"; {_INSTEAD[root].format(name=name)}" if root else ""
    if kind.__name__ in _NO_TRANSACTION:
        hint = "; it is no transaction: open one, and give what it gives you"
    return TypeError(f"{called or name}: this is a {kind.__module__}.{kind.__name__}, not {wanted}{hint}")
