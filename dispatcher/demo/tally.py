"""Matches what was committed with what was received: lost, duplicated, and how long each took.

One clock: the machine's monotonic clock, read by the producer when its commit returned and by the consumer when its
read returned. A consumer may hold an entry before the producer's commit call has returned; that counts as zero and is
reported as early.
"""

from collections.abc import Iterable

from dispatcher.demo.histogram import Histogram


class Tally:
    """Written by the parent process only."""

    def __init__(self, measure_from_ns: int = 0, *, trace: bool = False) -> None:
        self.measure_from_ns = measure_from_ns  # events committed before (the warm-up) are counted, not timed
        self.latency = Histogram()  # nanoseconds
        self.committed = 0
        self.matched = 0
        self.duplicated = 0
        self.early = 0
        self.trace: list[tuple[int, int]] | None = [] if trace else None  # (commit, receipt) of each timed event
        self._awaited: dict[bytes, int] = {}  # committed, not yet received
        self._unclaimed: dict[bytes, int] = {}  # received, commit not yet reported
        self._matched: set[bytes] = set()

    @property
    def lost(self) -> int:
        """Committed and not received (yet)."""
        return len(self._awaited)

    @property
    def foreign(self) -> int:
        """Received without a known commit (yet)."""
        return len(self._unclaimed)

    def add_committed(self, events: Iterable[tuple[int, bytes]]) -> None:
        """Note commits: (moment, event_id)."""
        for moment, event_id in events:
            self.committed += 1
            received = self._unclaimed.pop(event_id, None)
            if received is None:
                self._awaited[event_id] = moment
            else:
                self._match(event_id, moment, received)

    def add_received(self, reads: Iterable[tuple[int, list[bytes]]]) -> None:
        """Note reads: (moment, event_ids). Every further copy of an event is a duplicate."""
        for moment, event_ids in reads:
            for event_id in event_ids:
                committed = self._awaited.pop(event_id, None)
                if committed is not None:
                    self._match(event_id, committed, moment)
                elif event_id in self._matched or event_id in self._unclaimed:
                    self.duplicated += 1
                else:
                    self._unclaimed[event_id] = moment

    def _match(self, event_id: bytes, committed: int, received: int) -> None:
        self._matched.add(event_id)
        self.matched += 1
        if committed < self.measure_from_ns:
            return
        if received < committed:
            self.early += 1
        self.latency.record(max(0, received - committed))
        if self.trace is not None:
            self.trace.append((committed, received))

    def quantile_ms(self, q: float) -> float:
        """A quantile of commit to consumer, in milliseconds."""
        return self.latency.quantile(q) / 1e6

    def summary(self) -> dict[str, float | int]:
        """The figures, latencies in milliseconds."""
        return {
            "committed": self.committed,
            "received": self.matched,
            "lost": self.lost,
            "duplicated": self.duplicated,
            "early": self.early,
            "timed": self.latency.count,
            "p50_ms": round(self.quantile_ms(0.50), 3),
            "p95_ms": round(self.quantile_ms(0.95), 3),
            "p99_ms": round(self.quantile_ms(0.99), 3),
            "p99_9_ms": round(self.quantile_ms(0.999), 3),
            "max_ms": round(self.latency.maximum / 1e6, 3),
        }
