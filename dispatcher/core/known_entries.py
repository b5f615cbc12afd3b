"""What one connection knows of the entries of its streams: the newest of each, and the floor of the next claim."""

from collections.abc import Callable, Mapping, Sequence
from time import monotonic

from dispatcher.core.incarnation import stream_order

NONE = "0-0"  # sorts before every entry
MARGIN_MS = 1000  # a reading of Redis's clock is noted when its reply is read, which may be late
REMEMBERED_S = 600.0  # how long a step back of the clock counts; by then rows claimed before are searched


class KnownEntries:
    """Written by the tasks that use the connection, on one event loop.

    Entries of rows that are claimed now can only come after `floor`. Of one stream it is the newest entry. Several
    streams of one server share its clock, and each id is at least the clock: so it is just below a reading of it.
    `now`: the monotonic clock, seconds.
    """

    def __init__(self, streams: Sequence[str], now: Callable[[], float] = monotonic) -> None:
        self.streams = tuple(streams)
        self.floor = NONE
        self._now = now
        self._read: tuple[int, float] | None = None  # the last reading of Redis's clock, and when it was noted
        self._stepped: tuple[float, float] = (0.0, 0.0)  # how far the clock went back, in ms, and when that was seen
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
            now = self._now()
            read_ms, at = self._read or (clock_ms, now)
            back_ms, seen_at = read_ms + (now - at) * 1000 - clock_ms, self._stepped[1]
            if back_ms > self._stepped[0] or now - seen_at > REMEMBERED_S:
                self._stepped = (max(back_ms, 0.0), now)
            self._read = clock_ms, now

    def search_from(self, floor: str) -> str:
        """Where a search begins for rows of this floor, which was read from the clock if there are several streams.

        If the clock goes back after that, entries come below the floor: not found there, they would be doubled.
        """
        if len(self.streams) == 1:
            return floor
        back_ms = self._stepped[0] if self._now() - self._stepped[1] <= REMEMBERED_S else 0.0
        return f"{max(0, stream_order(floor)[0] - MARGIN_MS - int(back_ms))}-0"

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
