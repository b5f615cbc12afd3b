"""The porter: waits at the doorbell where there is no relay to do it, because no event goes to the stream."""

import asyncio
from collections.abc import Callable

import anyio

from dispatcher.core.events import Observer, Ticked
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.relay.policy import PauseCheck
from dispatcher.stages.doorbell.wake import Doorbell

ANSWER_S = 0.1


class WakeLoop:
    """Tells the handling of each wake-up, and the doorbell how many rows it brought."""

    def __init__(self, doorbell: Doorbell, control: ReconnectingSession, pause: PauseCheck, observe: Observer) -> None:
        self._doorbell = doorbell
        self._control = control
        self._pause = pause
        self._observe = observe
        self._rows = 0  # written by took() and run()
        self._answer = asyncio.Event()
        self._stopping = anyio.Event()

    def took(self, rows: int) -> None:
        """A claim of the handling took so many rows."""
        self._rows += rows
        self._answer.set()

    def stop(self) -> None:
        """`run()` returns soon."""
        self._stopping.set()
        self._answer.set()
        self._doorbell.nudge()

    async def run(self, nudge: Callable[[], None]) -> None:
        """Wait at the doorbell until `stop()`."""
        while not self._stopping.is_set():
            if self._pause.held():
                await self._doorbell.hold(self._control)
                self._observe(Ticked("ok", 0.0))
                continue
            await self._doorbell.wait(self._control)
            await self._doorbell.read_notifications(self._control)
            self._answer.clear()
            nudge()
            with anyio.move_on_after(
                0.0 if self._stopping.is_set() else ANSWER_S
            ):  # while every handler is busy nobody claims
                await self._answer.wait()
            rows, self._rows = self._rows, 0
            await self._doorbell.saw(rows, self._control)
