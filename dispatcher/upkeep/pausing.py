"""Pausing from outside: switches all dispatchers off or on, and waits until each that lives has obeyed."""

import getpass
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Self

import anyio
import psycopg

from dispatcher.core.errors import DispatcherError, Misconfigured, SessionLost, Unreachable
from dispatcher.infra.database import Session, Target, connect, describe
from dispatcher.infra.migrations import missing
from dispatcher.infra.sqlfiles import load

LOOK_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class Switch:
    """How it stands. Generation 0: it was never paused."""

    generation: int = 0
    paused: bool = False
    changed_at: datetime | None = None
    changed_by: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Word:
    """What a dispatcher that lives said last. None: it never said anything, as one of an older release."""

    name: str
    version: str | None
    registered: bool
    generation: int | None
    in_flight: int | None
    heard_s: float | None

    def obeys(self, switch: Switch) -> bool:
        """Whether it does what the switch says: when paused, with nothing left in hand."""
        return self.generation == switch.generation and not (switch.paused and self.in_flight)


class Pausing:
    """`async with Pausing(target) as pausing:` a session to switch and to watch. All raise DispatcherError."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._session: Session | None = None  # written by __aenter__()

    async def __aenter__(self) -> Self:
        self._session = session = await connect(self._target, "pause")
        try:
            with self._explained():
                if gone := await missing(session):
                    raise Misconfigured(
                        f"Postgres at {self._target.address()} lacks {', '.join(gone)}: run `dispatcher migrate` first"
                    )
                if not session.pooled:
                    await session.fetch("SET synchronous_commit = on")  # a crash must not undo what a person was told
        except BaseException:
            await session.close()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def switch(self, *, paused: bool, reason: str | None) -> tuple[Switch, bool]:
        """Pause or resume. How it stands then, and whether that is a change."""
        parameters = {"paused": paused, "changed_by": _who(), "reason": reason}
        with self._explained():
            changed = bool(await self._opened().fetch(load("pause_set"), parameters))
        now = await self.now()
        if now.paused != paused:
            raise _overtaken(now)
        return now, changed

    async def now(self) -> Switch:
        """How it stands."""
        with self._explained():
            return await read_switch(self._opened())

    async def words(self) -> list[Word]:
        """The dispatchers that live."""
        with self._explained():
            return await read_words(self._opened())

    async def wait(self, switch: Switch, timeout_s: float, progress: Callable[[list[Word]], None]) -> list[Word]:
        """Wait until all obey, at most so long; what they said last. `progress` hears it at each look.

        Raises DispatcherError when somebody switched again meanwhile.
        """
        deadline = monotonic() + timeout_s
        while True:
            words = await self.words()
            progress(words)
            if all(word.obeys(switch) for word in words) or monotonic() >= deadline:
                return words
            now = await self.now()
            if now.generation != switch.generation:
                raise _overtaken(now)
            await anyio.sleep(LOOK_EVERY_S)

    def _opened(self) -> Session:
        if self._session is None:
            raise RuntimeError("it was not opened")
        return self._session

    @contextmanager
    def _explained(self) -> Iterator[None]:
        where = f"Postgres at {self._target.address()}"
        try:
            yield
        except SessionLost as error:
            raise Unreachable(f"the connection to {where} broke ({error})") from None
        except psycopg.errors.InsufficientPrivilege:
            raise Misconfigured(
                f"{where}: this role may not pause; grant it the role outbox_dispatcher (sql/roles.sql, run again)"
            ) from None
        except psycopg.Error as error:
            raise DispatcherError(f"{where} refused: {describe(error)}") from None


async def read_switch(session: Session) -> Switch:
    """How it stands."""
    return next((Switch(*row) for row in await session.fetch(load("pause_state"))), Switch())


async def read_words(session: Session) -> list[Word]:
    """The dispatchers that live, and what each said last."""
    return [Word(*row) for row in await session.fetch(load("pause_progress"))]


def _overtaken(now: Switch) -> DispatcherError:
    did = "paused" if now.paused else "resumed"
    return DispatcherError(f"{now.changed_by or 'somebody'} {did} meanwhile, and that is how it stands now")


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's number without a name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"[:200]
