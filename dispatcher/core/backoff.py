"""How long to wait after a failure: exponential, capped, with full jitter."""

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits of up to base, 2 base, 4 base ... seconds (by another factor: in its powers), never above the cap."""

    base_s: float
    cap_s: float
    factor: float = 2.0

    def ceiling(self, attempt: int) -> float:
        """The longest wait after failure number `attempt` (1 for the first), in seconds."""
        # The exponent is bounded: 2.0 ** 1100 overflows, and a row may have been retried a million times.
        return min(self.cap_s, self.base_s * self.factor ** min(max(attempt, 1) - 1, 62))

    def delay(self, attempt: int, rng: Random) -> float:
        """A wait in seconds, uniform between 0 and the ceiling, so that rows that failed together return apart."""
        return rng.uniform(0.0, self.ceiling(attempt))

    def reconnect_delay(self, attempt: int, rng: Random) -> float:
        """A wait in seconds between half the ceiling and the ceiling: jittered, but never a busy loop."""
        ceiling = self.ceiling(attempt)
        return rng.uniform(ceiling / 2, ceiling)
