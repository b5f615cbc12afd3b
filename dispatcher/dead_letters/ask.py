"""One session for a person's question on the command line: opened, explained when it fails, closed."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import psycopg

from dispatcher.core.errors import DispatcherError, Misconfigured, SessionLost, Unreachable
from dispatcher.infra.database import Fetch, Target, connect, describe
from dispatcher.infra.migrations import missing

T = TypeVar("T")


async def asking(target: Target, question: Callable[[Fetch], Awaitable[T]]) -> T:
    """The answer. Raises DispatcherError with words for a person."""
    session = await connect(target, "dlq")
    where = f"Postgres at {target.address()}"
    try:
        if gone := await missing(session):
            raise Misconfigured(f"{where} lacks {', '.join(gone)}: run `dispatcher migrate` first")
        return await question(session.fetch)
    except SessionLost as error:
        raise Unreachable(f"the connection to {where} broke ({error})") from None
    except psycopg.errors.InsufficientPrivilege:
        raise Misconfigured(
            f"{where}: this role may not do that; grant it the role outbox_dispatcher (sql/roles.sql)"
        ) from None
    except psycopg.errors.QueryCanceled:
        raise DispatcherError(f"{where} took longer than {target.query_timeout_s:g} s; narrow it down") from None
    except psycopg.Error as error:
        raise DispatcherError(f"{where} refused: {describe(error)}") from None
    finally:
        await session.close()
