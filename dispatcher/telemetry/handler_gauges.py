"""Gauges of what handlers have in hand."""

from dispatcher.core import events
from dispatcher.telemetry.meter import Meter


class HandlerGauges:
    """Written by the event loop's thread only."""

    def __init__(self, meter: Meter) -> None:
        self._handling = meter.gauge("sum", "messaging_dispatch_handlers_running", "Handlers at work")
        self._waiting = meter.gauge(
            "sum", "messaging_dispatch_handlers_waiting_rows", "Rows claimed that wait for a handler"
        )
        self._outages = meter.gauge(
            "max", "messaging_dispatch_handler_outages", "Event types whose handlers wait for a server that is away"
        )
        self._types_waiting: set[str] = set()
        self._stuck = meter.gauge("sum", "messaging_dispatch_handlers_stuck", "Handlers that go on after their timeout")
        meter.hear(events.InHand, self._in_hand)
        meter.hear(events.HandlerOutage, self._outage)

    def _in_hand(self, event: events.InHand) -> None:
        self._handling.set(event.running)
        self._waiting.set(event.waiting)
        self._stuck.set(event.stuck)

    def _outage(self, event: events.HandlerOutage) -> None:
        (self._types_waiting.add if event.error is not None else self._types_waiting.discard)(event.event_type)
        self._outages.set(len(self._types_waiting))
