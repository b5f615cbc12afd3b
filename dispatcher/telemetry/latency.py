"""A histogram that takes a whole batch of latencies at once.

prometheus_client's own histogram takes one value a call, half a microsecond each: at 40,000 events a second that is two
per cent of a core spent on counting. Here a batch is sorted once and the edges are looked up in it, some twenty times
as fast.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from dispatcher.core.latencies import Latencies

# Seconds. 0.003 and 0.015 are our aim, 1.5 is the promise to users: each must be an edge, or its share is a guess.
EDGES = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05,
    0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip


class LatencyHistogram(Collector):
    """Counts latencies by bucket and shows them to Prometheus as one histogram. Written from one thread only."""

    def __init__(self, name: str, documentation: str) -> None:
        self._name = name
        self._documentation = documentation
        self._counts = [0] * (len(EDGES) + 1)
        self._sum_s = 0.0

    def observe(self, seconds: Sequence[float]) -> None:
        """Count a batch. A negative latency (a producer's clock ahead of Postgres's) counts as none."""
        if not seconds:
            return
        ordered = sorted(seconds)
        if ordered[0] < 0.0:
            ordered = [max(value, 0.0) for value in ordered]  # a sum that falls would look like a restart
        edges, counts = EDGES, self._counts
        self._sum_s += sum(ordered)
        total, done, bucket = len(ordered), 0, bisect_left(edges, ordered[0])
        while done < total and bucket < len(edges):
            upto = bisect_right(ordered, edges[bucket], done)  # a value on an edge belongs below it: `le`
            counts[bucket] += upto - done
            done, bucket = upto, bucket + 1
        counts[-1] += total - done

    def snapshot(self) -> Latencies:
        return Latencies(EDGES, tuple(self._counts), self._sum_s)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """For prometheus_client: buckets that count everything up to their edge."""
        labels = [floatToGoString(edge) for edge in (*EDGES, float("inf"))]  # type: ignore[no-untyped-call]
        buckets = list(zip(labels, map(float, accumulate(self._counts)), strict=True))
        yield HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=self._sum_s)
