"""Waits at the doorbell where no stream relay does, because no event goes to the stream (DISPATCH_UNROUTED=dead)."""

import asyncio
import math

import anyio

from dispatcher.core.events import Observer, Ticked
from dispatcher.relay.handlers.relay import HandlerRelay
from dispatcher.relay.policy import PauseCheck
from dispatcher.stages.doorbell.wake import Doorbell

ANSWER_S = 0.1  # for a claim: while every handler is busy there is none


class WakeLoop:
    """Wakes the handler relay, and tells the doorbell how many rows each wake-up brought."""

    def __init__(self, doorbell: Doorbell, pause: PauseCheck, observe: Observer) -> None:
        self._doorbell = doorbell
        self._pause_check = pause
        self._observe = observe
        self._rows = 0  # written by note_claim() and run()
        self._claimed = asyncio.Event()
        self._stopping = anyio.Event()

    def note_claim(self, rows: int) -> None:
        """Hear that a claim took so many rows."""
        self._rows += rows
        self._claimed.set()

    def stop(self) -> None:
        """Make `run()` return soon."""
        self._stopping.set()
        self._claimed.set()
        self._doorbell.nudge()

    async def run(self, handlers: HandlerRelay) -> None:
        """Wait at the doorbell until `stop()`."""
        while not self._stopping.is_set():
            if self._pause_check.paused():
                await self._doorbell.wait_while_paused(math.inf)
                self._observe(Ticked("ok", 0.0))
                continue
            await self._doorbell.wait()
            await self._doorbell.read_notifications()
            self._claimed.clear()
            handlers.wake()
            with anyio.move_on_after(0.0 if self._stopping.is_set() else ANSWER_S):
                await self._claimed.wait()
            rows, self._rows = self._rows, 0
            await self._doorbell.note_claim(rows)
