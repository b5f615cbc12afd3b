"""A log-linear histogram of whole numbers: constant relative error, a few hundred counters at most.

Each power of two is cut into 128 equal buckets, so a quantile is never below the true one and at most 1/128 (0.8 %)
above it. Values below 256 are exact. The unit is the caller's; the load generator records nanoseconds.
"""

import math
from collections import Counter
from collections.abc import Iterable

_BITS = 8  # values below 2**_BITS have a bucket each; above, 2**(_BITS - 1) buckets a power of two
_HALF = 1 << (_BITS - 1)
RELATIVE_ERROR = 1 / _HALF


def bucket_of(value: int) -> int:
    """The bucket a value falls into; buckets are ordered as their values are."""
    shift = max(0, value.bit_length() - _BITS)
    return shift * _HALF + (value >> shift)


def highest_in(bucket: int) -> int:
    """The largest value that falls into a bucket."""
    shift = max(0, bucket // _HALF - 1)
    return ((bucket - shift * _HALF + 1) << shift) - 1


class Histogram:
    """Counts of values by bucket, with the exact count, sum, minimum and maximum beside them."""

    __slots__ = ("count", "counts", "maximum", "minimum", "total")

    def __init__(self, values: Iterable[int] = ()) -> None:
        self.counts: Counter[int] = Counter()
        self.count = 0
        self.total = 0
        self.minimum = 0
        self.maximum = 0
        for value in values:
            self.record(value)

    def record(self, value: int) -> None:
        """Count one value. Raises ValueError for a negative one."""
        if value < 0:
            raise ValueError(f"a histogram counts values from 0, not {value}")
        self.minimum = value if not self.count else min(self.minimum, value)
        self.maximum = max(self.maximum, value)
        self.counts[bucket_of(value)] += 1
        self.count += 1
        self.total += value

    def quantile(self, q: float) -> int:
        """The smallest value that at least a share `q` (0 to 1) of all values do not exceed; 0 when there are none."""
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"a quantile lies between 0 and 1, not {q}")
        if not self.count:
            return 0
        rank = max(1, math.ceil(q * self.count))
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= rank:
                return min(highest_in(bucket), self.maximum)
        return self.maximum

    def as_dict(self) -> dict[str, object]:
        """For JSON: the counts by bucket, and the exact count, sum, minimum and maximum."""
        return {
            "buckets": {str(bucket): self.counts[bucket] for bucket in sorted(self.counts)},
            "count": self.count,
            "total": self.total,
            "minimum": self.minimum,
            "maximum": self.maximum,
        }
