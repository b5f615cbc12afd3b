"""Pause: one switch in Postgres stops all claims, at no cost to a claim while it is off.

The relays ask a flag in memory. The flag is read from Postgres when `dispatcher pause` or `resume` rings, and every few
seconds in case that was missed; on each tick while there is no listener. The pause is obeyed when nothing new is
claimed and nothing is in flight. That is acknowledged in Postgres, for the command that waits for it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any

import anyio
import psycopg

from dispatcher import __version__
from dispatcher.core.errors import SessionLost
from dispatcher.core.events import Observer, PauseChanged, Ticked
from dispatcher.core.findings.condition import NOTE_EVERY_S
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import describe
from dispatcher.infra.sqlfiles import load
from dispatcher.upkeep.standing_layout import StandingLayout

READ_EVERY_S = 7.0  # while the control session listens
AGAIN_S = 1.0  # after a read that got no answer
SOON_S = 0.05  # until Postgres answered for the first time

Unfinished = Callable[[], int]


class PauseWatcher:
    """The switch as last read, and our acknowledgement. Its fields are written by its own task, but for `_rung`.

    `sessions` are asked in this order: the first that is open. `changed()` is called when the switch changed.
    `condition()`: the state of this dispatcher, as JSON; it is written with the acknowledgement, at once when it
    changes. `figures()`: written with it too; they change all the time, so a change of them is not written at once.
    """

    def __init__(
        self,
        name: str,
        sessions: Sequence[ReconnectingSession],
        *,
        control: ReconnectingSession,
        tick_s: float,
        changed: Callable[[], None],
        layout: StandingLayout,
        observe: Observer,
        condition: Callable[[], str] = lambda: "{}",
        figures: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self._layout = layout
        layout.read_soon = self.read_soon
        self._name = name
        self._sessions = sessions
        self._control = control
        self._tick_s = tick_s
        self._changed = changed
        self._observe = observe
        self._condition = condition
        self._figures = figures
        self._rung = anyio.Event()
        self._paused: bool | None = None  # None: not read yet
        self._generation = 0
        # The generation and whether something was in flight, as last written, and the condition.
        self._acknowledged: tuple[int, bool] | None = None
        self._said = ""
        self._acknowledged_at = 0.0
        self._is_gone = False
        self._forbidden = False  # this role lacked a right for the last statement that was refused

    def paused(self) -> bool:
        """Whether nothing may be claimed: everything is paused, or that is not known yet."""
        return self._paused is not False

    def read_soon(self) -> None:
        """Read the switch now: somebody rang, or a ring may have been missed."""
        self._rung.set()

    def note_claim_ended(self) -> None:
        """Hear that a claim is not in flight any more; somebody may wait for that."""
        if self._acknowledged == (self._generation, True):
            self._rung.set()

    def may_try_sink(self) -> bool:
        """Whether Redis may be asked while nothing is claimed: always."""
        return True

    async def run(self, unfinished: Unfinished | None) -> None:
        """Watch until cancelled. `unfinished()`: how many claims of ours are in flight; None: we claim nothing."""
        while True:
            self._rung = anyio.Event()
            answered = await self._read(unfinished)
            if answered and unfinished is not None and not self._is_gone:
                answered = await self._acknowledge(unfinished)
            await self._rest(unfinished, answered)

    async def deregister(self) -> None:
        """Acknowledge nothing more, and remove what was. A failure is no matter: it is forgotten in time."""
        self._is_gone = True
        await self._fetch("pause_forget", {"name": self._name})

    async def _read(self, unfinished: Unfinished | None) -> bool:
        """Read the switch. False: Postgres did not answer, and what was known goes on."""
        if unfinished is not None and self._acknowledged is not None and self._time_to_write() and not self._is_gone:
            rows = await self._write(unfinished)
        else:
            rows = await self._fetch("pause_state", None)
        if rows is None:
            return False
        [(self._generation, paused, at, by, reason, layout, ordered)] = rows
        layout_changed = await self._layout.heard(layout, self._fetch, ordered=ordered)  # None: Postgres did not answer
        if layout_changed is None and self._paused is None and not self._forbidden:
            return False  # at the start nothing is claimed before the layout is known, for handlers either
        if layout_changed:
            self._changed()
        if paused != self._paused:
            known, self._paused = self._paused, paused
            if known is not None or paused:
                self._observe(PauseChanged(paused, by, reason, at and at.timestamp()))
            self._changed()
        return True

    async def _acknowledge(self, unfinished: Unfinished) -> bool:
        """Write what we obey, when that changed or was not written for a while. False: Postgres refused it."""
        if self._state(unfinished) != self._acknowledged or self._time_to_write() or self._has_news():
            return await self._write(unfinished) is not None
        return True

    def _state(self, unfinished: Unfinished) -> tuple[int, bool]:
        return self._generation, bool(self._paused and unfinished())

    def _has_news(self) -> bool:
        """Whether the condition changed since it was written; one that flaps is written once a second."""
        return self._condition() != self._said and monotonic() - self._acknowledged_at >= AGAIN_S

    def _time_to_write(self) -> bool:
        return monotonic() - self._acknowledged_at >= NOTE_EVERY_S

    async def _write(self, unfinished: Unfinished) -> list[tuple[Any, ...]] | None:
        """Write what we obey; the answer is the switch as it is now."""
        state, condition = self._state(unfinished), self._condition()
        parameters = {
            "name": self._name,
            "version": __version__,
            "generation": self._generation,
            "in_flight": unfinished() if self._paused else 0,
            "condition": json.dumps(json.loads(condition) | self._figures()),
        }
        rows = await self._fetch("pause_acknowledge", parameters)
        if rows is not None:
            self._acknowledged, self._acknowledged_at, self._said = state, monotonic(), condition
        return rows

    async def _rest(self, unfinished: Unfinished | None, answered: bool) -> None:
        """Wait to be rung, or for the time of the next read."""
        read_every_s = READ_EVERY_S if answered else AGAIN_S
        if self._paused is None:
            read_every_s = SOON_S
        elif self._control.session is None:
            read_every_s = min(1.0, self._tick_s)
        if unfinished is not None and self._condition() != self._said:
            read_every_s = min(read_every_s, AGAIN_S)
        waited_for = unfinished is not None and self._acknowledged == (self._generation, True)
        if answered and waited_for and unfinished is not None and not unfinished():
            return  # finished while we wrote that it was not; without an answer the loop would never wait
        with anyio.move_on_after(read_every_s):
            await self._rung.wait()

    async def _fetch(self, statement: str, parameters: dict[str, object] | None) -> list[tuple[Any, ...]] | None:
        for postgres in self._sessions:
            if (session := postgres.session) is None:
                continue
            try:
                return await session.fetch(load(statement), parameters)
            except SessionLost:
                continue
            except psycopg.Error as error:  # a lock or a timeout: the next read may be luckier
                self._forbidden = isinstance(error, psycopg.errors.InsufficientPrivilege)
                self._observe(Ticked("error", 0.0, f"pause: {describe(error)}"))
                return None
        return None
