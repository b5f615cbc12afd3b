"""The gauges of what the servers let the dispatcher do, and of what it was configured to do."""

import platform

from prometheus_client import Gauge

from dispatcher import __version__
from dispatcher.core import events
from dispatcher.telemetry.meter import Meter

_NAN = float("nan")


class ServerGauges:
    """Written by the event loop's thread only."""

    def __init__(self, meter: Meter) -> None:
        maxlen = meter.show(
            "max",
            "messaging_stream_maxlen_entries",
            "REDIS_STREAM_MAXLEN: what lags behind it is trimmed unread",
            events.Started,
            lambda event: _NAN if event.stream_maxlen is None else event.stream_maxlen,
        )
        maxlen.set(_NAN)
        meter.show(
            "max",
            "messaging_dispatch_breaker_open",
            "1 while claiming pauses because the sink fails",
            events.BreakerChanged,
            lambda event: event.state == "open",
        )
        meter.show(
            "max",
            "messaging_dispatch_shards_away",
            "Shards of a Redis Cluster that take no entries, so that theirs wait; the others go on",
            events.ShardsChanged,
            lambda event: event.away,
        )
        meter.show(
            "min",
            "messaging_dispatch_listener_up",
            "1 while the control session is open and can hear; a trigger that is absent or disabled leaves it at 1",
            events.ListenerChanged,
            lambda event: event.up,
        )
        meter.show(
            "min",
            "messaging_dispatch_database_up",
            "1 while any session of lanes or handlers is open (of a disabled dispatcher: chores)",
            events.DatabaseChanged,
            lambda event: event.up,
        )
        self.redis_up = RedisUp(meter)
        meter.show(
            "min",
            "messaging_dispatch_enabled",
            "1 when DISPATCHER_ENABLED is true",
            events.Started,
            lambda event: event.enabled,
        )
        build = meter.gauge(
            "max", "messaging_dispatch_build_info", "Always 1; the labels say what runs", "version", "python"
        )
        build.labels(__version__, platform.python_version()).set(1)


class RedisUp:
    """Whether Redis answers, by the last sample or pipeline, and takes entries; unknown once the sample is too old."""

    def __init__(self, meter: Meter) -> None:
        self._gauge: Gauge = meter.gauge(
            "min", "messaging_dispatch_redis_up", "1 while Redis answers and takes entries, or none is used"
        )
        self._breaker_open = False
        self._answers = False
        meter.hear(events.Published, self._published)
        meter.hear(events.BreakerChanged, self._breaker_changed)
        meter.hear(events.Sampled, lambda event: self._set(answers=event.redis_error is None))

    def forget(self) -> None:
        """Show NaN from now on, for the last sample is too old; an open breaker stays 0: it is certain without one."""
        self._answers = False
        if not self._breaker_open:
            self._gauge.set(_NAN)

    def _published(self, event: events.Published) -> None:
        if not self._answers and event.ages_s:
            self._set(answers=True)

    def _breaker_changed(self, event: events.BreakerChanged) -> None:
        self._breaker_open = event.state == "open"
        self._set(answers=not self._breaker_open)

    def _set(self, *, answers: bool) -> None:
        self._answers = answers
        self._gauge.set(answers and not self._breaker_open)
