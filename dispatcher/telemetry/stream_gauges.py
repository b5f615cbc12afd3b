"""The gauges of the streams and their groups. Several streams are told apart by a label: a key of the layout each."""

from collections.abc import Sequence

from dispatcher.core import events
from dispatcher.telemetry.group_gauges import GroupGauges
from dispatcher.telemetry.meter import Meter

_NAN = float("nan")


class StreamGauges:
    """Written by the event loop's thread only."""

    def __init__(self, meter: Meter, streams: Sequence[str]) -> None:
        self._streams = tuple(streams)
        label = ("stream",) if len(streams) > 1 else ()
        self._groups = GroupGauges(meter, streams)
        self._length = meter.gauge("newest", "messaging_stream_length_entries", "Entries in the stream", *label)

    def forget(self) -> None:
        """Nothing is known any more."""
        if len(self._streams) > 1:
            for stream in self._streams:
                self._length.labels(stream).set(_NAN)
        else:
            self._length.set(_NAN)
        self._groups.clear()

    def sampled(self, event: events.Sampled) -> None:
        """Show what was sampled."""
        self.forget()
        self._groups.show(event)
        if len(self._streams) > 1:
            for sample in event.streams:
                self._length.labels(sample.name).set(sample.length)
            return
        self._length.set(_NAN if event.stream_length is None else event.stream_length)
