"""The due check: when the next row is due, and whether writers may still be asked to ring.

A commit that must ring while Postgres's notification queue is full is refused. Whoever listens, on any channel, in a
transaction left open keeps the queue from advancing; so it is watched, and long before it is full nobody has to ring.
"""

from collections.abc import Callable
from math import inf

from dispatcher.core.events import NotificationQueueChanged, Observer
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.sqlfiles import load

FILLING = 0.5  # share of the queue in use
CALM = 0.25
ASK_EVERY_S = 0.1


class DueCheck:
    """Looks into the outbox for the doorbell; used by the one task whose turn it is to claim."""

    def __init__(self, slots: int, observe: Observer, clock: Callable[[], float], *, canaries: bool = False) -> None:
        self._rows = {"slots": slots, "canaries": canaries}
        self._observe = observe
        self._clock = clock
        self._asked_at = -inf
        self.filling = False  # the notification queue fills up; written by due_s()

    def begin(self) -> None:
        """Begin anew, for a new session: it may lead to another server."""
        self._asked_at = -inf

    async def due_s(self, session: Session) -> tuple[float, bool]:
        """Seconds until a row is due (inf: none waits), and whether the notification queue fills up."""
        ask = self._clock() - self._asked_at >= ASK_EVERY_S
        [(due_s, usage)] = await session.fetch(load("look"), self._rows | {"usage": ask})
        if usage is not None:
            self._asked_at = self._clock()
            filling = usage > (CALM if self.filling else FILLING)
            if filling != self.filling:
                self.filling = filling
                self._observe(NotificationQueueChanged(filling, usage))
        return inf if due_s is None else due_s, self.filling
