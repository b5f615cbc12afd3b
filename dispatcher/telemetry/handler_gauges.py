"""Gauges of what handlers have in hand."""

from collections.abc import Callable

from prometheus_client import Gauge

from dispatcher.core import events


class HandlerGauges:
    """Written by the event loop's thread only. `gauge(across, name, documentation)` makes one."""

    def __init__(self, gauge: Callable[..., Gauge]) -> None:
        self._handling = gauge("sum", "messaging_dispatch_handlers_running", "Handlers at work")
        self._waiting = gauge("sum", "messaging_dispatch_handlers_waiting_rows", "Rows claimed that wait for a handler")
        self._outages = gauge(
            "max", "messaging_dispatch_handler_outages", "Event types whose handlers wait for a server that is away"
        )
        self._types_waiting: set[str] = set()
        self._stuck = gauge("sum", "messaging_dispatch_handlers_stuck", "Handlers that go on after their timeout")

    def note(self, event: events.InHand | events.HandlerOutage) -> None:
        """Show what changed."""
        match event:
            case events.InHand(running, waiting, stuck):
                self._handling.set(running)
                self._waiting.set(waiting)
                self._stuck.set(stuck)
            case events.HandlerOutage(event_type, error):
                (self._types_waiting.add if error is not None else self._types_waiting.discard)(event_type)
                self._outages.set(len(self._types_waiting))
