"""Searches the stream for events, from the newest entry id that was known before they were sent."""

from collections.abc import AsyncIterator, Mapping

from dispatcher.core.decide import Refused
from dispatcher.core.errors import Unreachable
from dispatcher.core.incarnation import id_after
from dispatcher.core.outages import is_never_readable
from dispatcher.infra.redis.connection import RedisConnection

PAGE = 200  # entries read at once: of a megabyte each, what a slow network carries within the deadline


async def find_entries(
    connection: RedisConnection, stream: str, floor: str, wanted: Mapping[str, int], deadline_s: float
) -> dict[int, str]:
    """Search for events after `floor`. `wanted`: event id to row id. Returns row id to entry id of those found.

    The answer is certain only once the connection that carried the events is dead. Raises Unreachable when the stream
    cannot be read now. Where our user may never read it, nothing is found: to publish twice is better than never.
    """
    found: dict[int, str] = {}
    if wanted:
        async for page in read_pages(connection, stream, floor, deadline_s):
            found |= {wanted[event_id]: stream_id for stream_id, event_id in page if event_id in wanted}
            if len(found) == len(wanted):
                break
    return found


async def read_pages(
    connection: RedisConnection, stream: str, floor: str, deadline_s: float
) -> AsyncIterator[list[tuple[str, str]]]:
    """The entries after `floor` up to the newest, page by page: (entry id, event id), "" in an entry that is not ours.

    No page where our user may never read the stream. Raises Unreachable when it cannot be read now.
    """
    begin = id_after(floor)
    while True:
        [page] = await connection.send([("XRANGE", stream, begin, "+", "COUNT", str(PAGE))], deadline_s)
        if isinstance(page, Refused) and is_never_readable(page.text):
            return
        if not isinstance(page, list):
            raise Unreachable(page.text if isinstance(page, Refused) else getattr(page, "error", "no page of entries"))
        yield [(stream_id.decode(), _event_id(fields)) for stream_id, fields in page]
        if len(page) < PAGE:
            return
        begin = id_after(page[-1][0].decode())


def _event_id(fields: list[bytes]) -> str:
    """The event id in an entry's fields, "" in an entry that is not ours."""
    return dict(zip(fields[::2], fields[1::2], strict=False)).get(b"event_id", b"").decode(errors="replace")
