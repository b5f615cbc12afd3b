"""The gauges of what is looked up in Postgres and Redis every few seconds. A figure that is too old is unknown: NaN."""

import time
from collections.abc import Callable, Sequence

from prometheus_client import Gauge

from dispatcher.core import events
from dispatcher.telemetry.meter import Meter
from dispatcher.telemetry.stream_gauges import StreamGauges

_NAN = float("nan")
STALE_S = 30.0  # a figure that was not looked up for so long is unknown: the last one would be told for ever
SAMPLED_AT = "messaging_dispatch_sampled_timestamp_seconds"


class SampledGauges:
    """Written by the event loop's thread only. `streams`: keys of the layout."""

    def __init__(self, meter: Meter, streams: Sequence[str], clock: Callable[[], float]) -> None:
        self._of_postgres: list[Gauge] = []  # unknown while Postgres is away: made by of_postgres() below

        def of_postgres(name: str, documentation: str) -> Gauge:
            self._of_postgres.append(meter.gauge("newest", name, documentation))
            return self._of_postgres[-1]

        self._backlog = of_postgres(
            "messaging_outbox_backlog_rows", "All unsettled rows, scheduled ones too, counted up to 1000001"
        )
        self._oldest = of_postgres(
            "messaging_outbox_oldest_unsettled_age_seconds",
            "How long the oldest unsettled row is overdue; a row that was tried counts from occurred_at",
        )
        self._dead_rows = of_postgres(
            "messaging_outbox_dead_rows", "Dead events nobody decided about, counted up to 10001"
        )
        self._held = of_postgres(
            "messaging_outbox_held_aggregates",
            "With DISPATCH_ORDER=aggregate: aggregates whose events wait for one that fails; NaN without an order",
        )
        self._oldest_held = of_postgres(
            "messaging_outbox_oldest_held_aggregate_seconds",
            "Since when the first of them is held, in seconds; NaN without an order",
        )
        self._queue = of_postgres(
            "messaging_postgres_notification_queue_usage_ratio", "Share of Postgres's notification queue in use"
        )
        self._streams = StreamGauges(meter, streams)
        self._sampled_at = meter.gauge("newest", SAMPLED_AT, "When the gauges were last looked at")
        self._clock = clock
        self._looked_at: float | None = None  # when the figures were looked up, while they are known; by `clock`
        self._forget()
        meter.hear(events.Sampled, self._show)
        meter.hear(events.DatabaseChanged, self._database_changed)

    def _show(self, event: events.Sampled) -> None:
        self._sampled_at.set(time.time())
        self._looked_at = self._clock()
        self._backlog.set(event.backlog)
        self._oldest.set(event.oldest_age_s)
        self._dead_rows.set(event.dead)
        self._held.set(_NAN if event.held is None else event.held.aggregates)
        self._oldest_held.set(_NAN if event.held is None else event.held.oldest_s)
        self._queue.set(event.notification_queue_usage)
        self._streams.sampled(event)

    def _database_changed(self, event: events.DatabaseChanged) -> None:
        if not event.up:  # its last figures would look like a calm outbox
            self._forget_postgres()

    def _forget_postgres(self) -> None:
        for figure in self._of_postgres:
            figure.set(_NAN)

    def forget_if_stale(self) -> bool:
        """Forget figures that are too old. Returns whether there were any."""
        if self._looked_at is None or self._clock() - self._looked_at <= STALE_S:
            return False
        self._forget()
        return True

    def _forget(self) -> None:
        self._looked_at = None
        self._forget_postgres()
        self._streams.forget()
