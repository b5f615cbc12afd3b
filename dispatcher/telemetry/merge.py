"""The metrics of several processes as one page: counts are added up, each gauge as the line says that makes it.

A counter never falls: what a process had counted when it ended stays in the sum.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import isnan

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from dispatcher.core.process_state import Labels, MetricFamily
from dispatcher.telemetry.metrics import Metrics
from dispatcher.telemetry.sampled_gauges import SAMPLED_AT

Series = dict[tuple[str, Labels], float]


def families(registry: CollectorRegistry) -> tuple[MetricFamily, ...]:
    return tuple(
        MetricFamily(
            metric.name,
            metric.documentation,
            metric.type,
            tuple((each.name, tuple(sorted(each.labels.items())), each.value) for each in metric.samples),
        )
        for metric in registry.collect()
    )


class MergedMetrics(Collector):
    """`living`: the families of each process now. `own`: the supervisor's metrics. Used by one thread only."""

    def __init__(self, own: Metrics, living: Callable[[], Iterable[tuple[MetricFamily, ...]]]) -> None:
        self._own = own
        self._living = living
        self._ended: dict[str, Series] = {}  # counts of processes that ended, by family; written by retire()
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def describe(self) -> list[Metric]:
        return []  # for the registration, when there is no process to look at yet

    def retire(self, last: tuple[MetricFamily, ...]) -> None:
        """Keep the counts of a process that ended, from its last report."""
        for family in last:
            if family.type != "gauge":
                _add(self._ended.setdefault(family.name, {}), family)

    def collect(self) -> Iterator[Metric]:
        ours = families(self._own.registry)
        living = [{family.name: family for family in one} for one in self._living()]
        for own in ours:
            metric = Metric(own.name, own.documentation, own.type)
            found = [one[own.name] for one in living if own.name in one]
            series = self._gauge(own, found, living) if own.type == "gauge" else self._count([own, *found])
            metric.samples = [Sample(name, dict(labels), value) for (name, labels), value in series.items()]
            yield metric

    def _count(self, found: Sequence[MetricFamily]) -> Series:
        total = dict.fromkeys(((name, labels) for name, labels, _ in found[0].samples), 0.0)
        for each in found:
            _add(total, each)
        for key, value in self._ended.get(found[0].name, {}).items():
            total[key] = total.get(key, 0.0) + value
        return total

    def _gauge(self, own: MetricFamily, found: list[MetricFamily], living: list[dict[str, MetricFamily]]) -> Series:
        across = self._own.across[own.name]
        if across == "supervisor" or not found:
            return _series(own)
        if across == "newest":
            return _series(max((one for one in living if own.name in one), key=_sampled_at)[own.name])
        values: dict[tuple[str, Labels], list[float]] = {}
        for family in found:
            for key, value in _series(family).items():
                values.setdefault(key, []).append(value)
        choose = sum if across == "sum" else min if across == "min" else max
        return {key: choose([each for each in some if not isnan(each)] or some) for key, some in values.items()}


def _series(family: MetricFamily) -> Series:
    return {(name, labels): value for name, labels, value in family.samples}


def _add(total: Series, family: MetricFamily) -> None:
    for name, labels, value in family.samples:
        total[name, labels] = total.get((name, labels), 0.0) + value


def _sampled_at(one: dict[str, MetricFamily]) -> float:
    return one[SAMPLED_AT].samples[0][2] if SAMPLED_AT in one else 0.0
