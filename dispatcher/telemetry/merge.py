"""The metrics of several processes as one page: counts are added up, states are the worst, figures the newest.

A counter never falls: what a process had counted when it ended stays in the sum.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import isnan

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from dispatcher.core.snapshot import Family, Labels

ADDED = frozenset(
    {
        "messaging_dispatch_handlers_running",
        "messaging_dispatch_handlers_waiting_rows",
        "messaging_dispatch_handlers_stuck",
    }
)
LEAST = frozenset(  # of these 1 is good
    {
        "messaging_dispatch_listener_up",
        "messaging_dispatch_database_up",
        "messaging_dispatch_redis_up",
        "messaging_dispatch_audit_on",
        "messaging_dispatch_enabled",
    }
)
SAMPLED_AT = "messaging_dispatch_sampled_timestamp_seconds"
NEWEST = frozenset(  # of whoever looked last
    {
        SAMPLED_AT,
        "messaging_outbox_backlog_rows",
        "messaging_outbox_oldest_unsettled_age_seconds",
        "messaging_outbox_dead_rows",
        "messaging_postgres_notification_queue_usage_ratio",
        "messaging_stream_length_entries",
        "messaging_stream_group_lag_entries",
    }
)
SUPERVISOR = frozenset({"messaging_dispatch_workers_running"})  # only the supervisor knows

Series = dict[tuple[str, Labels], float]


def families(registry: CollectorRegistry) -> tuple[Family, ...]:
    """Everything a registry holds, as plain values."""
    return tuple(
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            tuple((each.name, tuple(sorted(each.labels.items())), each.value) for each in metric.samples),
        )
        for metric in registry.collect()
    )


class MergedMetrics(Collector):
    """`living`: the families of each process now. `own`: the supervisor's registry. Used by one thread only."""

    def __init__(self, own: CollectorRegistry, living: Callable[[], Iterable[tuple[Family, ...]]]) -> None:
        self._own = own
        self._living = living
        self._ended: dict[str, Series] = {}  # counts of processes that ended, by family; written by retire()
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def describe(self) -> list[Metric]:
        """Asked at the registration: nothing to look at yet."""
        return []

    def retire(self, last: tuple[Family, ...]) -> None:
        """A process ended; `last`: what it said last."""
        for family in last:
            if family.type != "gauge":
                _add(self._ended.setdefault(family.name, {}), family)

    def collect(self) -> Iterator[Metric]:
        """For prometheus_client."""
        ours = families(self._own)
        living = [{family.name: family for family in one} for one in self._living()]
        for own in ours:
            metric = Metric(own.name, own.documentation, own.type)
            found = [one[own.name] for one in living if own.name in one]
            series = self._gauge(own, found, living) if own.type == "gauge" else self._count([own, *found])
            metric.samples = [Sample(name, dict(labels), value) for (name, labels), value in series.items()]
            yield metric

    def _count(self, found: Sequence[Family]) -> Series:
        total = dict.fromkeys(((name, labels) for name, labels, _ in found[0].samples), 0.0)
        for each in found:
            _add(total, each)
        for key, value in self._ended.get(found[0].name, {}).items():
            total[key] = total.get(key, 0.0) + value
        return total

    def _gauge(self, own: Family, found: list[Family], living: list[dict[str, Family]]) -> Series:
        if own.name in SUPERVISOR or not found:
            return _series(own)
        if own.name in NEWEST:
            newest = max((one for one in living if own.name in one), key=_sampled_at)
            return _series(newest[own.name])
        values: dict[tuple[str, Labels], list[float]] = {}
        for family in found:
            for key, value in _series(family).items():
                values.setdefault(key, []).append(value)
        choose = sum if own.name in ADDED else min if own.name in LEAST else max
        return {key: choose([each for each in some if not isnan(each)] or some) for key, some in values.items()}


def _series(family: Family) -> Series:
    return {(name, labels): value for name, labels, value in family.samples}


def _add(total: Series, family: Family) -> None:
    for name, labels, value in family.samples:
        total[name, labels] = total.get((name, labels), 0.0) + value


def _sampled_at(one: dict[str, Family]) -> float:
    return one[SAMPLED_AT].samples[0][2] if SAMPLED_AT in one else 0.0
