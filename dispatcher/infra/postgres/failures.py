"""A statement of a relay failed; what now? (For what runs beside the relays: upkeep/duty.py.)"""

from random import Random
from time import monotonic

import anyio
import psycopg

from dispatcher.core.backoff import Backoff
from dispatcher.core.errors import SessionLost
from dispatcher.core.events import Observer, Ticked
from dispatcher.infra.postgres.session import describe

REFUSED = Backoff(base_s=0.1, cap_s=1.0)


class StatementFailures:
    """Tells of each failed statement, and paces the tries after it. One for each thing that is tried again.

    A session that was lost has replaced itself already, so the next try is made at once, on the next session. What the
    server refused (a lock, a timeout, a missing right) it may go on refusing: the pauses grow to a second.
    """

    def __init__(self, observe: Observer, rng: Random) -> None:
        self._observe = observe
        self._rng = rng
        self._in_a_row = 0

    def __bool__(self) -> bool:
        """Whether a try failed since the last `clear()`."""
        return self._in_a_row > 0

    def clear(self) -> None:
        """Note that a try succeeded."""
        self._in_a_row = 0

    async def tell_and_wait(self, error: SessionLost | psycopg.Error, began: float) -> None:
        """Tell of the failure of a try that began at `began` (monotonic seconds), and wait before the next one."""
        self._in_a_row += 1
        self._observe(Ticked("error", monotonic() - began, describe(error)))
        if not isinstance(error, SessionLost):
            await anyio.sleep(REFUSED.reconnect_delay(self._in_a_row, self._rng))
