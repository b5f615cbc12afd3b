"""What of the metrics is asked for at the moment when somebody looks at them."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from dispatcher.infra.output import dropped_lines


class MetricsRegistry(CollectorRegistry):
    """Calls `before()` before anybody sees the figures."""

    def __init__(self, before: Callable[[], None]) -> None:
        super().__init__()
        self._before = before

    def collect(self) -> Iterator[Metric]:
        self._before()
        yield from super().collect()


class DroppedLines(Collector):
    """Asked of the output itself: an event could not be told while nothing can be written."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(
            "messaging_dispatch_log_lines_dropped",
            "Lines of the log that nobody could read: the reader stopped or is gone, or the disk is full",
            value=dropped_lines(),
        )
