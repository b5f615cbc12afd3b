"""With an order: the dispatcher that a writer rang rings the owner of the row's slot, which alone may claim the row.

It runs beside the claim of the dispatcher that was rung, so neither waits for the other. A dispatcher that owns all
slots rings nobody.
"""

from collections.abc import Callable

import anyio
import psycopg

from dispatcher.core.errors import SessionLost
from dispatcher.core.events import Observer, Ticked
from dispatcher.core.owned_slots import OwnedSlots, Ranges
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session, describe
from dispatcher.infra.sqlfiles import load

ALL = ((0, 255),)


class OwnerBell:
    """`slots`: what we own. `dispatcher_id()`: our id in the registry, by which the others ring us."""

    def __init__(
        self,
        control: ReconnectingSession,
        slots: OwnedSlots,
        *,
        dispatcher_id: Callable[[], int | None],
        observe: Observer,
    ) -> None:
        self._control = control
        self._slots = slots
        self._dispatcher_id = dispatcher_id
        self._observe = observe
        self._rung = anyio.Event()  # replaced by run()
        self.channel = ""  # that we are rung on; written by listen()

    @property
    def ranges(self) -> Ranges:
        """What we own."""
        return self._slots.owned

    @property
    def owns_all(self) -> bool:
        """Whether we own all slots: then nobody else need be woken."""
        return self._slots.owned == ALL

    async def listen(self, session: Session) -> None:
        """Prepare a new control session, on which we are in the registry already."""
        self.channel = f"outbox_owner_{self._dispatcher_id()}"
        await session.fetch(f"LISTEN {self.channel}")

    def pass_on(self) -> None:
        """A writer rang us: ring the owners of what is due."""
        if not self.owns_all:
            self._rung.set()

    async def run(self) -> None:
        """Pass on until cancelled."""
        while True:
            await self._rung.wait()
            self._rung = anyio.Event()  # replaced, then asked: a ring that comes meanwhile is passed on too
            session, us = self._control.session, self._dispatcher_id()
            if session is None or us is None:
                continue  # the new session counts as a ring for everybody
            try:
                await session.fetch(load("ring_owners"), {"self": us})
            except SessionLost:
                continue
            except psycopg.Error as error:
                self._observe(Ticked("error", 0.0, describe(error)))
