"""Counts and latencies by event type, of a bounded number of types: the types are written by others.

The types that come first have a series of their own until the process ends; all later ones share one. So the labels are
a closed set, and a producer that puts an id into its event type fills neither Prometheus nor our memory.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from dispatcher.core.latencies import Latencies
from dispatcher.telemetry.latency import EDGES, LatencyHistogram

MOST = 20  # types with a series of their own
OTHERS = "other"  # the label of all later types together
SHOWN = (0.01, 0.1, 0.5, 1.5, 10.0)  # edges in the metric: seconds; twenty types with all edges would be a long page


class EventTypes(Collector):
    """Written by the event loop's thread only."""

    def __init__(self, name: str, documentation: str) -> None:
        self._name = name
        self._documentation = documentation
        self._found = {OTHERS: LatencyHistogram(OTHERS, "")}  # there from the start, so that an increase is seen

    def observe(self, types: Sequence[str], seconds: Sequence[float]) -> None:
        """Count a batch: the type and the latency of each event."""
        distinct = set(types)
        if len(distinct) == 1:
            self._of(distinct.pop()).observe(seconds)
            return
        sorted_out: dict[str, list[float]] = {event_type: [] for event_type in distinct}
        for event_type, latency in zip(types, seconds, strict=True):
            sorted_out[event_type].append(latency)
        for event_type, latencies in sorted_out.items():
            self._of(event_type).observe(latencies)

    def snapshot(self) -> dict[str, Latencies]:
        return {event_type: histogram.snapshot() for event_type, histogram in self._found.items()}

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """For prometheus_client: one histogram, with the type as its label."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=("event_type",))
        labels = [floatToGoString(edge) for edge in (*SHOWN, float("inf"))]  # type: ignore[no-untyped-call]
        for event_type, found in self.snapshot().items():
            upto = [0, *accumulate(found.counts)]
            counts = [*(upto[bisect_right(EDGES, edge)] for edge in SHOWN), upto[-1]]
            family.add_metric([event_type], list(zip(labels, map(float, counts), strict=True)), found.sum_s)
        yield family

    def _of(self, event_type: str) -> LatencyHistogram:
        found = self._found.get(event_type)
        if found is None:
            if len(self._found) > MOST:
                return self._found[OTHERS]
            found = self._found[event_type] = LatencyHistogram(event_type, "")
        return found
