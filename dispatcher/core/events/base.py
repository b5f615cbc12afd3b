"""The base of all telemetry events, and the observers that are told of them."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TelemetryEvent:
    """Something that happened, told to observers: metrics, the log, readiness and tests."""


Observer = Callable[[TelemetryEvent], None]


def fan_out(*observers: Observer) -> Observer:
    """One observer that passes each event to all of these, in order."""

    def observe(event: TelemetryEvent) -> None:
        for observer in observers:
            observer(event)

    return observe
