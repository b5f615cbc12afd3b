"""A statement of a relay failed; what now? (For what runs beside the relays: upkeep/duty.py.)"""

from itertools import count
from random import Random
from time import monotonic

import anyio
import psycopg

from dispatcher.core.backoff import Backoff
from dispatcher.core.errors import DispatcherError, SessionLost
from dispatcher.core.events import Observer, StatementRefused, Ticked
from dispatcher.infra.postgres.session import describe

REFUSED = Backoff(base_s=0.1, cap_s=1.0)
AGAIN_AND_AGAIN = 5  # refusals in a row: no moment's matter any more
_keys = count(1)


class StatementFailures:
    """Tells of each failed statement, and paces the tries after it. One for each thing that is tried again.

    A session that was lost has replaced itself already, so the next try is made at once, on the next session. What the
    server refused (a lock, a timeout, a missing right) it may go on refusing: the pauses grow to a second, and after a
    few (`tell_after`) the dispatcher is not ready. `what`: completes "Postgres refuses to ...".
    """

    def __init__(self, what: str, observe: Observer, rng: Random, *, tell_after: int = AGAIN_AND_AGAIN) -> None:
        self._what = what
        self._observe = observe
        self._rng = rng
        self._tell_after = tell_after
        self._in_a_row = 0
        self.refused = 0  # of those, by the server
        self._number = next(_keys)

    def __bool__(self) -> bool:
        """Whether a try failed since the last `clear()`."""
        return self._in_a_row > 0

    def clear(self) -> None:
        """Note that a try succeeded."""
        self._in_a_row = 0
        if self.refused >= self._tell_after:
            self._observe(StatementRefused(self._what, self._number, None))
        self.refused = 0

    async def tell_and_wait(self, error: DispatcherError | psycopg.Error, began: float) -> None:
        """Tell of the failure of a try that began at `began` (monotonic seconds), and wait before the next one."""
        self.tell(error, began)
        if not isinstance(error, SessionLost):
            await anyio.sleep(REFUSED.reconnect_delay(self._in_a_row, self._rng))

    def tell(self, error: DispatcherError | psycopg.Error, began: float) -> None:
        """Tell of the failure of a try that began at `began` (monotonic seconds)."""
        self._in_a_row += 1
        self._observe(Ticked("error", monotonic() - began, describe(error)))
        if not isinstance(error, SessionLost):
            self.refused += 1
            if self.refused == self._tell_after:
                self._observe(StatementRefused(self._what, self._number, describe(error)))
