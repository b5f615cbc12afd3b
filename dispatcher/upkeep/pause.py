"""Pause: one switch in Postgres holds all dispatchers back, at no cost to a claim while it is off.

The relay asks a flag in memory. The flag is read from Postgres when `dispatcher pause` or `resume` rings, and every few
seconds in case the ring was missed; on each tick where nothing can be heard. Obeyed means: nothing new is claimed and
nothing is in hand. That is written down, for the command that waits for it.
"""

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import anyio
import psycopg

from dispatcher import __version__
from dispatcher.core.errors import SessionLost
from dispatcher.core.events import Observer, PauseChanged, Ticked
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import describe, is_read_only
from dispatcher.infra.sqlfiles import load

LOOK_EVERY_S = 7.0  # while it can be rung
AGAIN_S = 1.0  # after a look that got no answer
SAY_EVERY_S = 6.0  # pause_progress.sql takes one for alive that was heard of in the last 15 s
SOON_S = 0.05  # until Postgres answered for the first time


class PauseWatcher:
    """What Postgres says, and our answer. Its fields are written by its own task, but for `_ring`."""

    def __init__(
        self,
        name: str,
        links: Sequence[ReconnectingSession],
        *,
        tick_s: float,
        listening: Callable[[], bool],
        in_hand: Callable[[], int],
        changed: Callable[[], None],
        observe: Observer,
    ) -> None:
        self._name = name
        self._links = links  # asked in this order: the first that is open
        self._tick_s = tick_s
        self._listening = listening
        self._in_hand = in_hand
        self._changed = changed
        self._observe = observe
        self._ring = anyio.Event()
        self._paused: bool | None = None  # None: not read yet
        self._generation = 0
        self._said: tuple[int, bool] | None = None  # the generation and whether something was in hand, as last written
        self._said_at = 0.0
        self._gone = False

    def held(self) -> bool:
        """Whether nothing may be claimed: it is paused, or not known yet."""
        return self._paused is not False

    def look_soon(self) -> None:
        """It was rung, or a ring may have been missed."""
        self._ring.set()

    def settled(self) -> None:
        """A batch is not in hand any more; somebody may wait for that."""
        if self._said == (self._generation, True):
            self._ring.set()

    async def run(self, *, answers: bool) -> None:
        """Look until cancelled. `answers`: we take rows, so somebody may wait for our word."""
        while True:
            self._ring = anyio.Event()
            answered = await self._look(answers)
            if answered and answers and not self._gone:
                answered = await self._say()
            await self._rest(answers, answered)

    async def sign_off(self) -> None:
        """Say nothing more, and take back what was said. A failure is no matter: it is forgotten in time."""
        self._gone = True
        await self._fetch("pause_forget", {"name": self._name})

    async def _look(self, answers: bool) -> bool:
        """Read the switch. False: Postgres did not answer, and what was known goes on."""
        again = answers and not self._gone and self._said is not None and self._unsaid_s() >= SAY_EVERY_S
        rows = await (self._write() if again else self._fetch("pause_state", None))
        if rows is None:
            return False
        [(self._generation, paused, _, by, reason)] = rows or [(0, False, None, None, None)]
        if paused != self._paused:
            known, self._paused = self._paused, paused
            if known is not None or paused:
                self._observe(PauseChanged(paused, by, reason))
            self._changed()
        return True

    async def _say(self) -> bool:
        """Write down what we obey, when that changed or has not been said for a while. False: Postgres refused it."""
        if self._word() != self._said or self._unsaid_s() >= SAY_EVERY_S:
            return await self._write() is not None
        return True

    def _word(self) -> tuple[int, bool]:
        return self._generation, bool(self._paused and self._in_hand())

    def _unsaid_s(self) -> float:
        return monotonic() - self._said_at

    async def _write(self) -> list[tuple[Any, ...]] | None:
        """Write down what we obey; the answer is the switch as it is now."""
        word = self._word()
        parameters = {
            "name": self._name,
            "version": __version__,
            "generation": self._generation,
            "in_flight": self._in_hand() if self._paused else 0,
        }
        rows = await self._fetch("pause_acknowledge", parameters)
        if rows is not None:
            self._said, self._said_at = word, monotonic()
        return rows

    async def _rest(self, answers: bool, answered: bool) -> None:
        """Wait to be rung, or for the time of the next look."""
        patience_s = LOOK_EVERY_S if answered else AGAIN_S
        looks_s = patience_s if self._listening() else min(1.0, self._tick_s)
        rest_s = SOON_S if self._paused is None else looks_s
        unsettled = answers and self._said == (self._generation, True)
        if answered and unsettled and not self._in_hand():
            return  # settled while we wrote that it was not; without an answer the loop would never wait
        with anyio.move_on_after(rest_s):
            await self._ring.wait()

    async def _fetch(self, statement: str, parameters: dict[str, object] | None) -> list[tuple[Any, ...]] | None:
        for postgres in self._links:
            if (session := postgres.session) is None:
                continue
            try:
                return await session.fetch(load(statement), parameters)
            except SessionLost as error:
                await postgres.report_broken(session, str(error))
            except psycopg.Error as error:  # a lock or a timeout: the next look may be luckier
                self._observe(Ticked("error", 0.0, f"pause: {describe(error)}"))
                if is_read_only(error):
                    await postgres.report_broken(session, describe(error))
                return None
        return None
