"""Whether the dispatcher is ready, from its last telemetry events: a probe asks no server and opens no connection."""

from dispatcher.core import events


class Readiness:
    """`observe` keeps the last state; a call gives the reason not to be ready in words, or None.

    A listener that is down is no reason: the dispatcher works on its tick. Written by the event loop's thread only.
    """

    def __init__(self) -> None:
        self._started = False
        self._enabled = True
        self._stopping = False
        self._database: str | None = "not connected yet"
        self._refused: dict[int, str] = {}  # statements that Postgres refuses again and again
        self._breaker: str | None = None
        self._layout: str | None = None
        self._layout_read = False  # until then nothing is claimed, and another layout may stand
        self._redis: str | None = None  # by the last sample: an idle relay would not notice

    def __call__(self) -> str | None:
        if self._stopping:
            return "stopping"
        if not self._enabled:
            return "disabled: DISPATCHER_ENABLED is false"
        if self._database is not None:
            return f"database: {self._database}"
        if self._refused:
            return f"database: {'; '.join(sorted(set(self._refused.values())))}"
        if self._layout is not None:
            return self._layout
        if (redis := self._breaker or self._redis) is not None:
            return f"redis: {redis}"
        return None if self._started and self._layout_read else "starting"

    def observe(self, event: events.TelemetryEvent) -> None:
        match event:
            case events.Published(entries) if entries:
                self._redis = None
            case events.Woke() | events.Slept() | events.Claimed() | events.Settled() | events.Ticked():
                pass  # there are hundreds a second: matched first, or each would be compared with all others
            case events.Started(_, enabled):
                self._started, self._enabled = True, enabled
            case events.DatabaseChanged(up, reason):
                self._database = None if up else reason or "not connected"
            case events.StatementRefused(what, number, error):
                self._refused.pop(number, None)
                if error is not None:
                    self._refused[number] = f"it refuses to {what}: {error}"
            case events.BreakerChanged(state, reason):
                self._breaker = (reason or "takes no entries") if state == "open" else None
                self._redis = None
            case events.LayoutChanged(reason):
                self._layout, self._layout_read = reason, True
            case events.StillAway("database", reason):
                self._database = reason
            case events.StillAway("redis", reason):
                self._breaker = reason
            case events.Sampled(redis_error=error):
                self._redis = error
            case events.Stopping() | events.Stopped():
                self._stopping = True
            case _:
                pass
