"""The gauges of the consumer groups: one series a group, for as long as there is one."""

from collections.abc import Callable

from prometheus_client import Gauge

from dispatcher.core.events import Sampled


class GroupGauges:
    """`gauge`: makes one, as `Metrics` does."""

    def __init__(self, gauge: Callable[..., Gauge]) -> None:
        self._lag = gauge(
            "newest", "messaging_stream_group_lag_entries", "Entries a consumer group has yet to read", "group"
        )
        self._age = gauge(
            "newest",
            "messaging_stream_group_read_age_seconds",
            "Time since a consumer of the group asked for entries; +Inf: nobody ever did",
            "group",
        )

    def clear(self) -> None:
        """A group that was destroyed must not keep its last figure."""
        self._lag.clear()
        self._age.clear()

    def show(self, event: Sampled) -> None:
        self.clear()
        for group, lag in event.group_lag.items():
            self._lag.labels(group).set(lag)
        for group, age_s in event.group_read_age_s.items():
            self._age.labels(group).set(age_s)
