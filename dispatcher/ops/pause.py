"""Pausing from outside: switches all dispatchers off or on, and waits until each that lives has obeyed."""

import getpass
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from time import monotonic

import anyio

from dispatcher.core.errors import DispatcherError
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.session import OperatorSession

LOOK_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class PauseSwitch:
    """How it stands. Generation 0: it was never paused."""

    generation: int = 0
    paused: bool = False
    changed_at: datetime | None = None
    changed_by: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """What a dispatcher that lives said last. None: it never said anything, as one of an older release."""

    name: str
    version: str | None
    registered: bool
    generation: int | None
    in_flight: int | None
    heard_s: float | None

    def obeys(self, switch: PauseSwitch) -> bool:
        """Whether it does what the switch says: when paused, with nothing left in hand."""
        return self.generation == switch.generation and not (switch.paused and self.in_flight)


class PauseSession(OperatorSession):
    """`async with Pausing(target) as pausing:` to switch and to watch."""

    verb = "pause"

    async def switch(self, *, paused: bool, reason: str | None) -> tuple[PauseSwitch, bool]:
        """Pause or resume. How it stands then, and whether that is a change."""
        parameters = {"paused": paused, "changed_by": _who(), "reason": reason}
        with self.explained():
            changed = bool(await self.session.fetch(load("pause_set"), parameters))
        now = await self.now()
        if now.paused != paused:
            raise _overtaken(now)
        return now, changed

    async def now(self) -> PauseSwitch:
        """How it stands."""
        with self.explained():
            return await read_switch(self.session)

    async def words(self) -> list[Acknowledgement]:
        """The dispatchers that live."""
        with self.explained():
            return await read_acknowledgements(self.session)

    async def wait(
        self, switch: PauseSwitch, timeout_s: float, progress: Callable[[list[Acknowledgement]], None]
    ) -> list[Acknowledgement]:
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


async def read_switch(session: Session) -> PauseSwitch:
    """How it stands."""
    return next((PauseSwitch(*row) for row in await session.fetch(load("pause_state"))), PauseSwitch())


async def read_acknowledgements(session: Session) -> list[Acknowledgement]:
    """The dispatchers that live, and what each said last."""
    return [Acknowledgement(*row) for row in await session.fetch(load("pause_progress"))]


def _overtaken(now: PauseSwitch) -> DispatcherError:
    did = "paused" if now.paused else "resumed"
    return DispatcherError(f"{now.changed_by or 'somebody'} {did} meanwhile, and that is how it stands now")


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's number without a name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"[:200]
