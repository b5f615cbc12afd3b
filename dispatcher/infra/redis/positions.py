"""How much a consumer group has to read, also where Redis does not tell.

Redis tells no lag of a group that was made at `$` or in the middle, nor after an XDEL, until it has read to the end.
Then what is known is put together: at this entry id, so many entries had been added. What is between is counted.
Before Redis 7 it tells no lag at all, nor what was added: there the new entries are counted from look to look.
"""

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from dispatcher.core.dead_stream import LastPutAway
from dispatcher.core.incarnation import id_after, stream_order
from dispatcher.core.page_size import PageSize
from dispatcher.infra.redis.replies import text_of

GAP = 5  # before Redis 7: a share of the entries that are read at most is for those that were added since the last look
PAGE = 32  # entries read at once, at most: with their payloads, for to ask for the ids alone is not possible
MOST_POINTS = 1000

# The first entries from one id to another, at most so many, each an id and its fields; None: they cannot be read.
ReadEntries = Callable[[str, str, int], Awaitable[Sequence[tuple[Any, Any]] | None]]


class StreamPositions:
    """What is remembered of one stream: entry ids, and how many entries had been added by then. For one task."""

    def __init__(self) -> None:
        self._points: list[tuple[tuple[int, int], int]] = []  # in order
        self._added = 0
        self._counted_to: str | None = None  # before Redis 7: the newest entry that `_added` counts
        self._size = PageSize(PAGE)
        self.put_away: dict[str, tuple[int, LastPutAway | None]] = {}  # by group: how many, and the last of them
        self.oldest: float | None = None  # when the oldest entry was added, once that was asked
        self.may_see_dead = True  # until our user was denied the dead stream of a group

    async def unread(
        self, group: Mapping[str, Any], stream: Mapping[str, Any], read: ReadEntries, *, matters: float, most: int
    ) -> int:
        """Entries that the group has yet to read. `group` and `stream`: the fields of XINFO, as bytes or text.

        Exact, or at most so many: below `matters` nothing is counted, and no more than `most` entries are read.
        """
        if (lag := group.get("lag")) is not None:
            return int(lag)
        reads, ends = text_of(group["last-delivered-id"]), text_of(stream["last-generated-id"])
        if stream_order(reads) >= stream_order(ends):
            return 0
        length = int(stream["length"])
        if (told := stream.get("entries-added")) is not None:
            added = int(told)
        elif length < matters:
            return length
        else:
            added = await self._count_added(ends, length, read, most // GAP)
        self._note(stream, ends, added, length)
        lower, upper = self._around(reads)
        first, last = _id(lower[0]), _id(upper[0])
        bound = min(length, added - lower[1])  # less with each entry that is found before the group's place
        said = group.get("entries-read")
        most_unread = bound if said is None else max(0, added - int(said))
        behind, left = added - upper[1], most
        begin, middle = id_after(first), id_after(reads)
        while min(bound, most_unread) >= matters and left > 0 and stream_order(begin) <= stream_order(reads):
            before, after = await self._page(read, begin, reads), await self._page(read, middle, last)
            if before is None or after is None:
                break
            left -= before[0] + after[0]
            bound, behind = bound - before[0], behind + after[0]
            if after[1] is None:
                bound = min(bound, behind)
                break
            if before[1] is None:
                break
            begin, middle = before[1], after[1]
        self._add(reads, added - min(bound, most_unread))
        return min(bound, most_unread)

    async def _count_added(self, ends: str, length: int, read: ReadEntries, most: int) -> int:
        """What Redis 7 tells as entries-added, less what was trimmed before the first look. After more than `most` new
        entries the count begins again: to read the whole stream would take too long."""
        known, self._counted_to = self._counted_to, ends
        if known == ends:
            return self._added
        if known is not None and stream_order(known) < stream_order(ends):
            begin, counted = id_after(known), 0
            while counted <= most and (page := await self._page(read, begin, ends)) is not None:
                counted += page[0]
                if page[1] is None:
                    return self._added + counted
                begin = page[1]
        self._points.clear()
        return length

    async def _page(self, read: ReadEntries, begin: str, end: str) -> tuple[int, str | None] | None:
        """How many entries the next page has, and where the one after it begins (None: there is none)."""
        count = self._size.count
        entries = await read(begin, end, count)
        if entries is None:
            return None
        self._size.note([_size(fields) for _, fields in entries])
        return len(entries), id_after(text_of(entries[-1][0])) if len(entries) == count else None

    def _note(self, stream: Mapping[str, Any], ends: str, added: int, length: int) -> None:
        if added < self._added:
            self._points.clear()  # another stream of the same name
        self._added = added
        first = stream.get("first-entry")
        if first:
            begins = stream_order(text_of(first[0]))
            gone = [point for point in self._points if point[0] < begins]
            del self._points[: len(gone)]
        self._points.insert(0, ((0, 0), added - length))  # before the first that is there
        self._add(ends, added)

    def _around(self, entry_id: str) -> tuple[tuple[tuple[int, int], int], tuple[tuple[int, int], int]]:
        at = bisect_right(self._points, stream_order(entry_id), key=lambda point: point[0])
        return self._points[at - 1], self._points[at]

    def _add(self, entry_id: str, added: int) -> None:
        key = stream_order(entry_id)
        at = bisect_right(self._points, key, key=lambda point: point[0])
        if at and self._points[at - 1][0] == key:
            self._points[at - 1] = (key, max(added, self._points[at - 1][1]))
            return
        self._points.insert(at, (key, added))
        if len(self._points) > MOST_POINTS:
            del self._points[1:-1:2]


def _size(fields: Any) -> int:
    """Bytes or characters of an entry's names and values, flat or as a mapping."""
    flat = (each for pair in fields.items() for each in pair) if isinstance(fields, Mapping) else fields or ()
    return sum(map(len, flat))


def _id(key: tuple[int, int]) -> str:
    return f"{key[0]}-{key[1]}"
