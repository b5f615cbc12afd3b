"""How many rows to ask for, and how long to pause while writers keep the doorbell's key."""

from dataclasses import dataclass


@dataclass(slots=True)
class BatchPacer:
    """Rows to ask for in one claim, so that a batch of large payloads stays within a budget of memory.

    Written by the relay's claim loop only.
    """

    batch_size: int
    budget_bytes: int = 16 * 1024 * 1024
    _mean_bytes: float = 0.0

    def limit(self) -> int:
        """Rows the next claim may take, at least 1."""
        if self._mean_bytes * self.batch_size <= self.budget_bytes:
            return self.batch_size
        return max(1, int(self.budget_bytes / self._mean_bytes))

    def saw(self, rows: int, size: int) -> None:
        """Note a batch of `rows` rows and `size` characters of payload. Rises at once, falls slowly."""
        if rows:
            mean = size / rows
            self._mean_bytes = mean if mean > self._mean_bytes else self._mean_bytes * 0.9 + mean * 0.1


@dataclass(slots=True)
class Doze:
    """Pauses between looks while some writer holds the doorbell's key: short at first, doubling up to the tick.

    A writer in the middle of its commit will not ring for what it wrote, so somebody has to look again. Written by the
    relay's claim loop only. Seconds.
    """

    tick_s: float
    first_s: float = 0.002
    _next_s: float = 0.0

    def pause_s(self) -> float:
        """The next pause; each is twice the one before."""
        pause = min(self._next_s or self.first_s, self.tick_s)
        self._next_s = min(pause * 2, self.tick_s)
        return pause

    def reset(self) -> None:
        """Rows were found, or the key was got: the next pause is short again."""
        self._next_s = 0.0
