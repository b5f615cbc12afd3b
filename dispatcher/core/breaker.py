"""The breaker before the sink: closed, open until a time, then half open: trials."""

from dataclasses import dataclass
from random import Random
from typing import Literal

from dispatcher.core.backoff import Backoff

State = Literal["closed", "open", "half_open"]


@dataclass(slots=True)
class Breaker:
    """Opens on a failure of the sink, lets one trial of each lane through after its wait, closes when one succeeds.

    Written by the relay's tasks only, all on one event loop. Times are the caller's monotonic seconds.
    """

    backoff: Backoff
    rng: Random
    state: State = "closed"
    reason: str | None = None
    failures: int = 0
    connection_only: bool = False  # what failed was reaching the sink: a connection alone is the proof of its return
    _until: float = 0.0

    def failed(self, now: float, reason: str, *, connection_only: bool) -> bool:
        """Note a failure of the sink. True when this opened a closed breaker."""
        opened = self.state == "closed"
        if self.state == "open" and now < self._until:
            return False  # other batches of the same outage: they must not lengthen the wait
        self.failures += 1
        self.state, self.reason, self.connection_only = "open", reason, connection_only
        self._until = now + self.backoff.reconnect_delay(self.failures, self.rng)
        return opened

    def succeeded(self) -> bool:
        """Note that the sink took something. True when this closed the breaker."""
        closed = self.state != "closed"
        self.state, self.reason, self.failures, self.connection_only = "closed", None, 0, False
        return closed

    def wait_s(self, now: float) -> float:
        """Seconds until a claim is allowed: 0 when closed or when a trial is due."""
        return max(0.0, self._until - now) if self.state == "open" else 0.0

    def begin_trial(self, now: float) -> bool:
        """Turn an open breaker whose wait is over to half open. True when the caller should try a single row."""
        if self.state == "open" and now >= self._until:
            self.state = "half_open"
        return self.state == "half_open"
