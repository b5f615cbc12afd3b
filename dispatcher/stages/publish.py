"""Publish: one pipeline a batch, one reply a row, nothing sent twice."""

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

from dispatcher.core.decide import NotSent, Refused, Reply, Unpublishable
from dispatcher.core.entry import EntryFormat, EntryFormats
from dispatcher.core.incarnation import RedisIncarnation
from dispatcher.core.row import Batch
from dispatcher.infra.redis.connection import RedisConnection

GONE = "the stream is gone from Redis, and was there a moment ago"  # the reply to XADD NOMKSTREAM was nil


class SentBatch(NamedTuple):
    """A batch on its way: its pipeline's future replies, and the rows that were not sent because they never can be."""

    replies: asyncio.Future[list[Any]]
    unpublishable: dict[int, Unpublishable]  # by position in the batch
    incarnation: RedisIncarnation | None = None  # where it was sent
    streams: Mapping[int, str] = {}  # by row id, to which; empty: there is only one


def send(connection: RedisConnection, entry: EntryFormat | EntryFormats, batch: Batch, deadline_s: float) -> SentBatch:
    """Write the batch's pipeline now, without waiting: batches sent in turn reach the stream in that order."""
    if isinstance(entry, EntryFormats):
        return _send_to_several(connection, entry, batch, deadline_s)
    unpublishable: dict[int, Unpublishable] = {}
    commands: list[bytes] = []
    make = not connection.has_stream(entry.stream)
    for position, row in enumerate(batch.rows):
        if reason := entry.unpublishable(row):
            unpublishable[position] = Unpublishable(reason)
        else:
            commands.append(entry.xadd(row, make=make))
    return SentBatch(connection.send(commands, deadline_s), unpublishable, connection.incarnation)


def _send_to_several(connection: RedisConnection, formats: EntryFormats, batch: Batch, deadline_s: float) -> SentBatch:
    unpublishable: dict[int, Unpublishable] = {}
    commands: list[bytes] = []
    streams: dict[int, str] = {}
    make: dict[str, bool] = {}
    for position, row in enumerate(batch.rows):
        entry = formats.of(row)
        streams[row.id] = stream = entry.stream
        if reason := entry.unpublishable(row):
            unpublishable[position] = Unpublishable(reason)
            continue
        if stream not in make:
            make[stream] = not connection.has_stream(stream)
        commands.append(entry.xadd(row, make=make[stream]))
    return SentBatch(connection.send(commands, deadline_s), unpublishable, connection.incarnation, streams)


def unsent(batch: Batch, why: str) -> SentBatch:
    """A batch that was not written at all: its rows go back."""
    replies: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
    replies.set_result([NotSent(why)] * len(batch.rows))
    return SentBatch(replies, {})


async def replies_of(sent: SentBatch) -> list[Reply]:
    """The batch's replies, one a row, in the order of its rows."""
    # Shielded: a cancelled lane must not make a reply that arrives look lost.
    replies: list[Reply] = [_checked(reply) for reply in await asyncio.shield(sent.replies)]
    for position in sorted(sent.unpublishable):
        replies.insert(position, sent.unpublishable[position])
    return replies


def _checked(reply: Any) -> Reply:
    if reply is None:
        return NotSent(GONE)
    if isinstance(reply, list | int):
        return Refused(f"UNEXPECTED reply of type {type(reply).__name__} to XADD")
    checked: Reply = reply
    return checked
