"""Asks Redis which incarnation a connection leads to, and whether the end of its stream is still there."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from dispatcher.core.decide import Refused
from dispatcher.core.errors import Unreachable
from dispatcher.core.incarnation import RedisIncarnation, StreamEnd, id_after, lost_its_end, stream_order
from dispatcher.core.outages import in_short, tells_nothing
from dispatcher.infra.redis.connection import RedisConnection
from dispatcher.infra.redis.info import fields_of
from dispatcher.infra.redis.replies import clock_in, info_fields
from dispatcher.infra.redis.search import read_pages

PROBES = 5  # connections: of a proxy before two servers that deals them out by chance, 1 look in 10 takes no notice


@dataclass(frozen=True, slots=True)
class SeenServer:
    """What a connection leads to. `replid2`: the replication id that it had as a replica; `ends`: by stream."""

    incarnation: RedisIncarnation  # without lives: Redis does not know of them
    replid2: str
    ends: dict[str, StreamEnd]
    clock_ms: int | None

    @property
    def last_ids(self) -> dict[str, str]:
        """The newest entry id that each stream ever gave."""
        return {stream: end.last_id for stream, end in self.ends.items()}


@dataclass(frozen=True, slots=True)
class Gap:
    """The entries that are lost: above `after` and below `before` (None: no newer one was added)."""

    after: str
    before: str | None


@dataclass(frozen=True, slots=True)
class KnownEnd:
    """What Postgres knows of a stream; see messaging.stream_server."""

    stream: str
    life: int
    newest_id: str | None
    added: int | None
    window_id: str | None


class Forbidden(Exception):
    """Our user may not ask. Or a proxy allows no such command. The text is the refusal, in short."""


async def ask_incarnation(connection: RedisConnection, streams: Sequence[str], deadline_s: float) -> SeenServer:
    """Raises Forbidden, and Unreachable while nothing may be published there: a replica, a server that loads.

    A connection that leads to a replica is closed.
    """
    about, replication, *of_streams = await connection.send(
        [("INFO", "server"), ("INFO", "replication"), *[("XINFO", "STREAM", each) for each in streams]], deadline_s
    )
    for reply in (about, replication, *of_streams):
        if isinstance(reply, Refused) and tells_nothing(reply.text):
            raise Forbidden(in_short(reply.text))
    if not isinstance(about, bytes) or not isinstance(replication, bytes):
        raise Unreachable(_why(about) if not isinstance(about, bytes) else _why(replication))
    fields = info_fields(about) | info_fields(replication)
    if fields.get("role") not in (None, "master"):
        # Behind one address the next connection may lead to the new primary; this one leads to the replica for good.
        connection.close()
        raise Unreachable("Redis is a replica: it takes no entries until it is promoted")
    incarnation = RedisIncarnation(fields.get("run_id", ""), fields.get("master_replid", ""))
    ends = {stream: _stream_end(reply) for stream, reply in zip(streams, of_streams, strict=True)}
    return SeenServer(incarnation, fields.get("master_replid2", ""), ends, clock_in(about))


async def look_for_gap(
    connection: RedisConnection, known: KnownEnd, entries: Iterable[str], deadline_s: float
) -> tuple[StreamEnd, Gap | None]:
    """The end of the stream, and what it lost of what it held.

    `entries`: ids of entries of this life of the stream that we know ourselves; "0-0" is none. Raises Unreachable when
    the stream cannot be read now.
    """
    stream, noted_id = known.stream, known.newest_id or "0-0"
    ids = sorted({noted_id, *entries}, key=stream_order)
    of_stream, *found = await connection.send(
        [("XINFO", "STREAM", stream), *[("XRANGE", stream, each, each, "COUNT", "1") for each in ids]], deadline_s
    )
    end = _stream_end(of_stream)
    for known_id, reply in zip(ids, found, strict=True):
        there = bool(reply) if isinstance(reply, list) and known_id != "0-0" else True  # may not read: by ids only
        if lost_its_end(known_id, noted_id, known.added, end, there=there):
            gap = await _gap(connection, known, known_id, end, deadline_s)
            if gap is not None:
                return end, gap
    return end, None


async def _gap(
    connection: RedisConnection, known: KnownEnd, lost_id: str, end: StreamEnd, deadline_s: float
) -> Gap | None:
    if stream_order(end.last_id) < stream_order(lost_id):
        return Gap(end.last_id, None)
    if await _has_holes(connection, known, lost_id, end, deadline_s):
        return None
    [newer] = await connection.send([("XRANGE", known.stream, id_after(lost_id), "+", "COUNT", "1")], deadline_s)
    after = since = known.window_id or "0-0"
    if end.first_id is not None and stream_order(end.first_id) <= stream_order(lost_id):  # an older copy
        async for page in read_pages(connection, known.stream, since, deadline_s):
            older = [each for each, _ in page if stream_order(each) <= stream_order(lost_id)]
            after = older[-1] if older else after
            if len(older) < len(page):
                break
    return Gap(after, newer[0][0].decode() if isinstance(newer, list) and newer else None)


async def _has_holes(
    connection: RedisConnection, known: KnownEnd, lost_id: str, end: StreamEnd, deadline_s: float
) -> bool:
    """Whether the entry was trimmed from between others, as XTRIM ... ACKED does, which Redis tells nowhere.

    An older copy tells itself: it holds more entries after the noted one than were added since.
    """
    noted_id = known.newest_id or "0-0"
    if known.added is None or end.added is None or end.added < known.added or end.first_id is None:
        return False
    if stream_order(end.first_id) > stream_order(lost_id):
        return False  # judged by their number already
    may_be_there = end.added - known.added - (stream_order(lost_id) > stream_order(noted_id))
    async for page in read_pages(connection, known.stream, noted_id, deadline_s):
        may_be_there -= len(page)
        if may_be_there < 0:
            return False
    return True


async def ask_elsewhere(
    connection: RedisConnection, run_id: str
) -> Literal["same", "elsewhere", "differ", "not asked"]:
    """Open a few more connections: "same" when they are told this run id too.

    "elsewhere": all are told another one, as after a failover that this connection does not know of. "differ": they do
    not agree; a proxy makes the run id up, or spreads connections over servers. "not asked": they could not be opened.
    """
    told = [run_id, *[await connection.run_id_elsewhere() for _ in range(PROBES)]]
    if None in told:
        return "not asked"
    if sum(one != other for one, other in pairwise(told)) > 1:
        return "differ"
    return "same" if told[0] == told[1] else "elsewhere"


def _stream_end(reply: Any) -> StreamEnd:
    if isinstance(reply, Sequence) and not isinstance(reply, bytes | str):
        return StreamEnd.of(fields_of(list(reply)))
    if isinstance(reply, Refused) and "no such key" in reply.text:
        return StreamEnd(added=0)
    raise Unreachable(_why(reply))  # a server that loads, taken for an empty one, would double everything


def _why(reply: object) -> str:
    return reply.text[:200] if isinstance(reply, Refused) else str(getattr(reply, "error", "no answer to INFO"))
