"""Makes the metrics: each says in one place its name, what it means, and which telemetry event changes it."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from dispatcher.core.events import TelemetryEvent

# How a gauge of several processes is shown as one. newest: of the process that sampled last; supervisor: its own value,
# whatever the workers say.
Across = Literal["sum", "min", "max", "newest", "supervisor"]
EventT = TypeVar("EventT", bound=TelemetryEvent)


class Meter:
    """`across`: for each gauge by name, how `telemetry/merge.py` sums it over processes. `heard`: who hears an event.

    Counters and histograms add up.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.across: dict[str, Across] = {}
        self.heard: dict[type[TelemetryEvent], list[Callable[[Any], object]]] = {}

    def hear(self, kind: type[EventT], change: Callable[[EventT], object]) -> None:
        """Call `change(event)` with each event of this class."""
        self.heard.setdefault(kind, []).append(change)

    def counter(self, name: str, documentation: str, *labels: str) -> Counter:
        """A counter. prometheus_client appends `_total` to its name."""
        return Counter(name, documentation, labels, registry=self.registry)

    def gauge(self, across: Across, name: str, documentation: str, *labels: str) -> Gauge:
        """A gauge. `across`: how merge.py makes one value of those of several processes."""
        self.across[name] = across
        return Gauge(name, documentation, labels, registry=self.registry)

    def histogram(self, name: str, documentation: str, edges: Sequence[float]) -> Histogram:
        """A histogram with these edges, in seconds."""
        return Histogram(name, documentation, buckets=edges, registry=self.registry)

    def count(self, name: str, documentation: str, kind: type[EventT], amount: Callable[[EventT], float]) -> Counter:
        """A counter to which each event of this class adds `amount(event)`."""
        counter = self.counter(name, documentation)
        self.hear(kind, lambda event: counter.inc(amount(event)))
        return counter

    def show(
        self, across: Across, name: str, documentation: str, kind: type[EventT], value: Callable[[EventT], float]
    ) -> Gauge:
        """A gauge that each event of this class sets to `value(event)`; a truth is shown as 1 or 0."""
        gauge = self.gauge(across, name, documentation)
        self.hear(kind, lambda event: gauge.set(value(event)))
        return gauge
