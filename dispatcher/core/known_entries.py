"""What one connection knows of the entries of its streams: the newest of each, and the floor of the next claim."""

from collections.abc import Mapping, Sequence

from dispatcher.core.incarnation import stream_order

NONE = "0-0"  # sorts before every entry


class KnownEntries:
    """Written by the tasks that use the connection, on one event loop.

    Entries of rows that are claimed now can only come after `floor`. Of one stream it is the newest entry. Several
    streams of one server share its clock, and each id is at least the clock: so it is just below a reading of it.
    """

    def __init__(self, streams: Sequence[str]) -> None:
        self.streams = tuple(streams)
        self.floor = NONE
        self._newest: dict[str, str] = {}  # that were added through the connection to what it leads to now
        self._oldest: dict[str, str] = {}  # the same, since take()

    def begin(self, last_ids: Mapping[str, str], clock_ms: int | None) -> None:
        """A connection was made, or verified. `last_ids`: by stream, those that are known; `clock_ms`: the server's."""
        if len(self.streams) == 1:
            self.floor = last_ids.get(self.streams[0], NONE)
        elif clock_ms is not None:
            self.note_clock(clock_ms)
        else:
            self.floor = min((last_ids.get(stream, NONE) for stream in self.streams), key=stream_order, default=NONE)

    def note_clock(self, clock_ms: int) -> None:
        """Hear what the server's clock says, or said a moment ago. With one stream it does not matter."""
        if len(self.streams) > 1:
            self.floor = f"{clock_ms - 1}-0"

    def note(self, entry_ids: Sequence[str], streams: Sequence[str] | None = None) -> None:
        """Note entries that were just added, one at least; `streams`: of each, None where there is only one stream."""
        if streams is None:
            self.floor = self._newest[self.streams[0]] = entry_ids[-1]
            self._oldest.setdefault(self.streams[0], entry_ids[-1])
            return
        for stream, entry_id in zip(streams, entry_ids, strict=True):
            self._newest[stream] = entry_id
            self._oldest.setdefault(stream, entry_id)
        # Redis read its clock for an id that ends in -0; others may only count on from an id ahead of the clock.
        read = next((each for each in reversed(entry_ids) if each.endswith("-0")), None)
        if read is not None:
            self.note_clock(stream_order(read)[0])

    @property
    def added(self) -> bool:
        """Whether any entry was added to what the connection leads to now."""
        return bool(self._newest)

    def newest(self, stream: str) -> str:
        """The newest entry that was added to this stream; NONE: none was."""
        return self._newest.get(stream, NONE)

    def take(self) -> dict[str, tuple[str, str]]:
        """Of each stream the oldest entry that was added since this was called last, and the newest."""
        ends = self.ends()
        self._oldest.clear()
        return ends

    def ends(self) -> dict[str, tuple[str, str]]:
        """As `take`, and nothing is taken."""
        return {stream: (self._oldest.get(stream, NONE), self.newest(stream)) for stream in self.streams}

    def restore(self, ends: Mapping[str, tuple[str, str]]) -> None:
        """Undo `take`: nobody could search for these."""
        self._oldest |= {stream: oldest for stream, (oldest, _) in ends.items() if oldest != NONE}

    def forget(self) -> None:
        """The connection leads to something else, or nobody knows: what was added is no matter any more."""
        self._newest.clear()
        self._oldest.clear()
