"""A histogram of latencies at one moment: it can be added, subtracted and asked for a quantile."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Latencies:
    """`edges` in seconds; `counts`: one more than edges, the last for what exceeds them all."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    sum_s: float

    @property
    def total(self) -> int:
        return sum(self.counts)

    def since(self, earlier: "Latencies") -> "Latencies":
        """What came after an earlier moment of the same histogram.

        A count that fell, because one process of a sum began anew, gives none rather than less than none.
        """
        counts = tuple(max(0, now - then) for now, then in zip(self.counts, earlier.counts, strict=True))
        return Latencies(self.edges, counts, max(0.0, self.sum_s - earlier.sum_s))

    def quantile(self, q: float) -> float | None:
        """An estimate of quantile `q` (0 to 1), linear within a bucket as Prometheus has it. None when empty.

        What exceeds the last edge is answered with the last edge.
        """
        total = self.total
        if total == 0:
            return None
        rank, below = q * total, 0
        for index, count in enumerate(self.counts[:-1]):
            if count and below + count >= rank:
                low = self.edges[index - 1] if index else 0.0
                return low + (self.edges[index] - low) * max(0.0, rank - below) / count
            below += count
        return self.edges[-1]


def summed(latencies: Iterable[Latencies]) -> Latencies:
    """The counts of several processes as one; there must be one at least, and all must have the same edges."""
    first, *others = latencies
    counts = tuple(map(sum, zip(first.counts, *(other.counts for other in others), strict=True)))
    return Latencies(first.edges, counts, first.sum_s + sum(other.sum_s for other in others))
