"""The observer that writes the log: JSON in production, text on a terminal. What a line says the event itself knows."""

import dataclasses
import time
from collections.abc import Callable
from typing import TextIO

from dispatcher.core import events
from dispatcher.telemetry import loguru_setup
from dispatcher.telemetry.loguru_setup import write
from dispatcher.telemetry.throttle import Throttle

PRUNED_S = 60.0  # while there is more to delete, a line at most this often


def configure(
    level: str = "INFO",
    format: loguru_setup.Format | None = None,
    *,
    stream: TextIO | None = None,
    worker: str | None = None,
) -> "Logs":
    """Send log lines to `stream` (standard error) and return the observer that writes them. May be called again.

    Without a format: text on a terminal, else JSON. `worker`: the name every line bears, where there are several.
    """
    return Logs(debug=loguru_setup.configure(level, format, stream=stream, worker=worker))


class Logs:
    """Writes a line for each event that is news. Its fields are written by the event loop's thread only."""

    def __init__(self, *, debug: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._debug = debug
        self._clock = clock
        self._repeats = Throttle(clock)
        self._down: dict[type, str | None] = {}  # the event of what is down, and the reason that was written
        self._pruned: tuple[int, int, float] | None = None  # rows, copies, since when; not written yet

    def __call__(self, event: events.TelemetryEvent) -> None:
        if self._debug and event.detailed:
            _write_detail(event)
        match event:
            case events.Pruned():
                self._add_pruned(event)
                return
            case events.ListenerChanged(up, reason) | events.DatabaseChanged(up, reason):
                if not self._is_news(type(event), up, reason):
                    return
        self._write(event)

    def _write(self, event: events.TelemetryEvent) -> None:
        line = event.line()
        if line is None:
            return
        fields = line.fields
        if line.same_as is not None:
            suppressed = self._repeats.suppressed(line.same_as)
            if suppressed is None:
                return
            if suppressed:
                fields["suppressed"] = suppressed
        write(line.level, line.name, line.text, fields)

    def _add_pruned(self, event: events.Pruned) -> None:
        """Write what was deleted once there is no more, or once a minute: not each batch."""
        rows, copies, since = self._pruned or (0, 0, self._clock())
        rows, copies = rows + event.outbox, copies + event.dlq
        if rows + copies == 0:
            return
        self._pruned = (rows, copies, since)
        if not event.more or self._clock() - since >= PRUNED_S:
            self._pruned = None
            self._write(events.Pruned(rows, copies))

    def _is_news(self, changed: type, up: bool, reason: str | None) -> bool:
        """Whether something went up, or is down for another reason: not each attempt to reach it is told."""
        if up:
            self._down.pop(changed, None)
            return True
        if changed in self._down and self._down[changed] == reason:
            return False
        self._down[changed] = reason
        return True


def _write_detail(event: events.TelemetryEvent) -> None:
    names = [field.name for field in dataclasses.fields(event) if field.name not in ("ages_s", "at", "dispatchers")]
    fields = {name: getattr(event, name) for name in names}
    write("DEBUG", type(event).__name__.lower(), type(event).__name__, fields)
