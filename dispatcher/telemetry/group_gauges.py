"""The gauges of the consumer groups: one series a group and stream, while there is one."""

from collections.abc import Mapping, Sequence

from dispatcher.core.events import Sampled
from dispatcher.telemetry.meter import Meter


class GroupGauges:
    """`streams`: the keys of the layout; several make a label of their own."""

    def __init__(self, meter: Meter, streams: Sequence[str] = ()) -> None:
        labels = ("group", "stream") if len(streams) > 1 else ("group",)
        self._several = len(streams) > 1
        self._lag = meter.gauge(
            "newest", "messaging_stream_group_lag_entries", "Entries a consumer group has yet to read", *labels
        )
        self._age = meter.gauge(
            "newest",
            "messaging_stream_group_read_age_seconds",
            "Time since a consumer of the group asked for entries; +Inf: nobody ever did",
            *labels,
        )

    def clear(self) -> None:
        """A group that was destroyed must not keep its last figure."""
        self._lag.clear()
        self._age.clear()

    def show(self, event: Sampled) -> None:
        self.clear()
        if self._several:
            for each in event.streams:
                self._of(each.group_lag, each.group_read_age_s, each.name)
        else:
            self._of(event.group_lag, event.group_read_age_s)

    def _of(self, lags: Mapping[str, int], ages_s: Mapping[str, float], *stream: str) -> None:
        for group, lag in lags.items():
            self._lag.labels(group, *stream).set(lag)
        for group, age_s in ages_s.items():
            self._age.labels(group, *stream).set(age_s)
