"""The due check: when the next row is due, and whether writers may still be asked to ring.

A commit that must ring while Postgres's notification queue is full is refused. Whoever listens, on any channel, in a
transaction left open keeps the queue from advancing; so it is watched, and long before it is full nobody has to ring.
"""

from collections.abc import Callable
from math import inf

from dispatcher.core.events import NotificationQueueChanged, Observer, WakeCause
from dispatcher.core.owned_slots import Ranges
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.sqlfiles import load

FILLING = 0.5  # share of the queue in use
FILLING_NO_MORE = 0.25  # below it writers may ring again
ASK_EVERY_S = 0.1


class OwnRows:
    """Which rows may wake us: parameters of doze.sql and due_check.sql. `owned()`: with an order, our slots."""

    def __init__(self, slots: int, *, proof_events: bool = False, owned: Callable[[], Ranges] | None = None) -> None:
        self._fixed: dict[str, object] = {"slots": slots, "proof_events": proof_events}
        self._owned = owned

    @property
    def in_order(self) -> bool:
        """Whether only rows in slots of ours count."""
        return self._owned is not None

    def parameters(self) -> dict[str, object]:
        """As they are now."""
        if self._owned is None:
            return self._fixed
        ranges = self._owned()
        return self._fixed | {"lows": [low for low, _ in ranges], "highs": [high for _, high in ranges]}


class DueCheck:
    """Asks the outbox when the next row is due; used by the one task whose turn it is to claim."""

    def __init__(self, rows: OwnRows, observe: Observer, clock: Callable[[], float]) -> None:
        self._rows = rows
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
        statement, rows = load("due_check", owned=self._rows.in_order), self._rows.parameters()
        [(due_s, usage)] = await session.fetch(statement, rows | {"usage": ask})
        if usage is not None:
            self._asked_at = self._clock()
            filling = usage > (FILLING_NO_MORE if self.filling else FILLING)
            if filling != self.filling:
                self.filling = filling
                self._observe(NotificationQueueChanged(filling, usage))
        return inf if due_s is None else due_s, self.filling


def why_due(*, first: bool, writers: bool, until_due: bool) -> WakeCause:
    """The cause of a wake-up, when the due check finds a row that is due. See docs/reference/metrics.md.

    `first`: no pause was made yet. `writers`, `until_due`: what the pause before this check waited for.
    """
    if first:
        return "busy"  # a row was due already, before the sleep began
    if writers:
        return "writers"  # a writer held the key, so we checked again after a short pause
    if until_due:
        return "due"  # the check before said that a row would be due now
    return "tick"  # the tick or a shorter pause passed
