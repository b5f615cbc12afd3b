"""Searches the stream for events, from the newest entry id that was known before the events were published.

Redis gives entries whole, payloads too, and knows no limit in bytes. So the size of a page is bounded here: by how
large the entries before it were, and by closing the connection when a reply is larger than MOST_BYTES. What earlier
pages found is kept.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from time import monotonic

import anyio

from dispatcher.core.decide import NoReply, Refused
from dispatcher.core.errors import Unreachable
from dispatcher.core.incarnation import RedisIncarnation, id_after
from dispatcher.core.layout import Layout, RowOfStream
from dispatcher.core.outages import is_never_readable
from dispatcher.infra.redis.connection import RedisConnection

PAGE = 200  # entries read at once, if they are small
PAGE_WITHOUT_CLOSING = 32  # the same, where no page may close the connection, however large its entries are
PAGE_BYTES = 4 * 1024 * 1024  # how large a page of larger entries should be
MOST_BYTES = 2 * PAGE_BYTES  # a page of several entries that takes more is read again in smaller ones
MOST_DEADLINES = 16  # so many times the deadline, at most, for a page of one entry
AGAIN_S = 0.1  # pause between a page that was lost and the next try


class PageLost(Unreachable):
    """The connection ended while a page came: the page was too large, or took too long. The next page is smaller."""


class StreamWalk:
    """A walk over the entries of a stream, page by page, from `floor` up to the newest.

    After an error the walk goes on where it was, perhaps on another connection to the same incarnation of Redis.
    `may_close`: a page that is too large may close the connection.
    """

    def __init__(self, stream: str, floor: str, *, may_close: bool = True) -> None:
        self.ended = False
        self._stream = stream
        self._begin = id_after(floor)
        self._may_close = may_close
        self._most = PAGE if may_close else PAGE_WITHOUT_CLOSING
        self._count = PAGE if may_close else 1
        self._deadlines = 1

    async def page(self, connection: RedisConnection, deadline_s: float) -> list[tuple[str, str]]:
        """The next page: entry id and event id of each entry, "" for the event id of an entry that is not ours.

        Empty where our user may never read the stream. Raises PageLost, or Unreachable when it cannot be read now.
        """
        count, began, deadline_s = self._count, monotonic(), deadline_s * self._deadlines
        command = ("XRANGE", self._stream, self._begin, "+", "COUNT", str(count))
        [page] = await connection.send([command], deadline_s, MOST_BYTES if count > 1 and self._may_close else None)
        if isinstance(page, Refused) and is_never_readable(page.text):
            self.ended = True
            return []
        if isinstance(page, NoReply):
            self._count = max(1, count // 8)
            if count == 1:
                self._deadlines = min(2 * self._deadlines, MOST_DEADLINES)
            raise PageLost(page.error)
        if not isinstance(page, list):
            raise Unreachable(page.text if isinstance(page, Refused) else getattr(page, "error", "no page of entries"))
        self.ended = len(page) < count
        if page:
            self._begin = id_after(page[-1][0].decode())
            mean = sum(len(text) for _, fields in page for text in fields) / len(page)
            took_s = monotonic() - began
            grown = 2 * count if took_s < deadline_s / 4 else count if took_s < deadline_s / 2 else count // 2
            self._count = max(1, min(self._most, grown, int(PAGE_BYTES / max(mean, 1.0))))
        return [(stream_id.decode(), _event_id(fields)) for stream_id, fields in page]


def by_stream(layout: Layout, rows: Iterable[RowOfStream]) -> dict[str, dict[str, int]]:
    """For each stream that one of these rows goes to: event id to row id."""
    wanted: dict[str, dict[str, int]] = {}
    for row in rows:
        wanted.setdefault(layout.key_of(row.event_type, row.slot), {})[row.event_id] = row.id
    return wanted


class Search:
    """Searches for events, one stream after the other. `found`: row id to entry id.

    `wanted`: by stream, event id to row id. An event that is not found is certainly not in the stream only if the
    connection that carried the event is dead: RedisConnection.connect() ends our old connection on the server,
    upkeep/fence.py ends that of another dispatcher. Where our user may never read the stream, nothing is found: to
    publish an event twice is better than never.
    """

    def __init__(
        self, floor: str, wanted: Mapping[str, Mapping[str, int]], incarnation: RedisIncarnation | None
    ) -> None:
        self.wanted = wanted
        self.incarnation = incarnation  # the one to search; None: any
        self.found: dict[int, str] = {}
        self._walks = [(StreamWalk(stream, floor), dict(events)) for stream, events in wanted.items() if events]

    @property
    def done(self) -> bool:
        """Whether no page is left to read, or all events are found."""
        return not self._walks

    async def read(self, connection: RedisConnection, deadline_s: float) -> None:
        """Read one more page, and note which events are in it. Raises as StreamWalk.page()."""
        walk, missing = self._walks[-1]
        for stream_id, event_id in await walk.page(connection, deadline_s):
            if event_id in missing:
                self.found[missing.pop(event_id)] = stream_id
        if walk.ended or not missing:
            self._walks.pop()


Verify = Callable[[RedisConnection], Awaitable[RedisIncarnation]]


class Searcher:
    """Runs the searches of all who ask, a page at a time, so that all together take the memory of one page.

    With `verify`, which says which incarnation a new connection leads to, the connection belongs to the searcher: no
    search holds up publishing, and the connection is open only while somebody searches. Without `verify` the connection
    belongs to somebody else: the searcher uses it as it is, and never opens or closes it.
    """

    def __init__(self, connection: RedisConnection, deadline_s: float, verify: Verify | None = None) -> None:
        self._connection = connection
        self._deadline_s = deadline_s
        self._verify = verify
        self._turn = anyio.Lock()  # its holder may use and replace the connection
        self._asking = 0

    async def go_on(self, search: Search, for_s: float) -> bool:
        """Search on for about `for_s` seconds, and at least one page. Returns whether the search is done.

        Raises DispatcherError when the stream cannot be read now. What was found is kept in `search`.
        """
        until = monotonic() + for_s
        self._asking += 1
        try:
            while not search.done:
                async with self._turn:
                    try:
                        await self._lead_to(search.incarnation)
                        await search.read(self._connection, self._deadline_s)
                    except PageLost:
                        if self._verify is None:
                            raise
                        await anyio.sleep(AGAIN_S)
                if monotonic() > until:
                    break
        finally:
            self._asking -= 1
            if self._verify is not None and not self._asking:
                self._connection.close()
        return search.done

    async def _lead_to(self, incarnation: RedisIncarnation | None) -> None:
        if self._verify is None:
            return
        if not self._connection.up:
            await self._connection.connect()
            self._connection.set_incarnation(await self._verify(self._connection))
        leads_to = self._connection.incarnation
        # Where Redis does not tell who it is, or a proxy makes it up, nothing can be compared.
        if leads_to and incarnation and leads_to.known and incarnation.known and not leads_to.same_server(incarnation):
            self._connection.close()
            raise Unreachable("another incarnation of Redis answers a search than the one to be searched")


async def read_pages(
    connection: RedisConnection,
    stream: str,
    floor: str,
    deadline_s: float,
    again: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[list[tuple[str, str]]]:
    """All pages of a walk. `again` connects again after a lost page. Raises what `again` raises, and Unreachable.

    Without `again` no page closes the connection for its size: the caller would begin anew each time, for ever.
    """
    walk = StreamWalk(stream, floor, may_close=again is not None)
    while not walk.ended:
        try:
            page = await walk.page(connection, deadline_s)
        except PageLost:
            if again is None:
                raise
            await anyio.sleep(AGAIN_S)
            await again()
            continue
        yield page


def _event_id(fields: list[bytes]) -> str:
    """The event id in an entry's fields, "" in an entry that is not ours."""
    return dict(zip(fields[::2], fields[1::2], strict=False)).get(b"event_id", b"").decode(errors="replace")
