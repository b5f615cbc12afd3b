"""The one Postgres session of an operator's command. Each failure becomes a message that names the remedy.

A new operation is a function in ops/ that gets a session, a click command in commands/ that calls it by `ask`, and,
where the console needs it too, an endpoint in sidecar/ that calls the same function.
"""

import getpass
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Self, TypeVar

import psycopg

from dispatcher.core.errors import DispatcherError, Misconfigured, SessionLost, Unreachable
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.session import Session, describe
from dispatcher.infra.postgres.tables import missing, refuse_unfit, what_lacks
from dispatcher.infra.postgres.target import PostgresTarget

T = TypeVar("T")


def operator() -> str:
    """user@host of the person who runs the command."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user number without a name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"[:200]


class OperatorSession:
    """`async with` opens the session, and requires all migrations. Everything raises DispatcherError."""

    def __init__(
        self, target: PostgresTarget, verb: str, too_slow: str = "try again when Postgres is less busy"
    ) -> None:
        """`verb` completes "this role may not ...", and is a part of the session's application_name."""
        self.target = target
        self.verb = verb
        self.too_slow = too_slow
        self._session: Session | None = None  # written by __aenter__()

    async def __aenter__(self) -> Self:
        self._session = session = await connect(self.target, self.verb)
        try:
            with self.explained():
                await refuse_unfit(session, f"Postgres at {self.target.address()}", children=False)
                if gone := await missing(session):
                    raise Misconfigured(what_lacks(f"Postgres at {self.target.address()}", gone))
                if not session.pooled:
                    # The relay's sessions avoid both, and do not wait for the disk; here a person waits.
                    await session.script("SET enable_seqscan = on; SET enable_sort = on; SET synchronous_commit = on")
        except BaseException:
            await session.close()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def session(self) -> Session:
        """The session, inside the `async with`."""
        if self._session is None:
            raise RuntimeError("it was not opened")
        return self._session

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn an error of Postgres into a DispatcherError with one plain message."""
        where = f"Postgres at {self.target.address()}"
        try:
            yield
        except SessionLost as error:
            raise Unreachable(f"the connection to {where} broke ({error})") from None
        except psycopg.errors.InsufficientPrivilege as error:
            raise Misconfigured(
                f"{where}: this role may not {self.verb}; grant it the role outbox_dispatcher "
                f"(`dispatcher sql roles`). Postgres says: {describe(error)}"
            ) from None
        except psycopg.errors.QueryCanceled:
            raise DispatcherError(
                f"{where} took longer than {self.target.query_timeout_s:g} s; {self.too_slow}"
            ) from None
        except psycopg.Error as error:
            raise DispatcherError(f"{where} refused: {describe(error)}") from None


async def ask(target: PostgresTarget, verb: str, question: Callable[[Session], Awaitable[T]], *too_slow: str) -> T:
    """Open a session, put one question, close it. `verb`, `too_slow`: as of OperatorSession. Raises DispatcherError."""
    async with OperatorSession(target, verb, *too_slow) as opened:
        with opened.explained():
            return await question(opened.session)
