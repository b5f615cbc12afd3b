"""Publish: one pipeline a batch, one reply a row, nothing sent twice."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any, NamedTuple

from dispatcher.core.decide import KeptBack, NoReply, NotSent, Refused, Reply, Unpublishable
from dispatcher.core.entry import EntryFormat, EntryFormats, with_field
from dispatcher.core.incarnation import RedisIncarnation
from dispatcher.core.outages import is_redis_outage, redis_code
from dispatcher.core.row import Batch
from dispatcher.infra.redis.connection import RedisConnection
from dispatcher.infra.redis.pipe import Command

AFTER_DEAD = "after_dead"  # the field of an entry that follows a dead event of its aggregate
MULTI, EXEC = b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nEXEC\r\n"

GONE = "the stream is gone from Redis, and was there a moment ago"  # the reply to XADD NOMKSTREAM was nil


class WrittenBatch(NamedTuple):
    """A batch whose pipeline is written: the replies to come, and the rows that were left out of the pipeline."""

    replies: asyncio.Future[list[Any]]
    # Rows that were left out, by position in the batch. With an order KeptBack: an earlier event of its aggregate never
    # can be sent, and this one waits until that one is dead.
    unpublishable: Mapping[int, Unpublishable | KeptBack]
    incarnation: RedisIncarnation | None = None  # where it was sent
    streams: Mapping[int, str] = {}  # by row id, to which; empty: there is only one
    blocks: Sequence["Block"] = ()  # in order: what was written together


class Block(NamedTuple):
    """Rows of one stream, by position among those that were sent. `whole`: within MULTI and EXEC."""

    rows: list[int]
    whole: bool


def send(
    connection: RedisConnection, entry: EntryFormat | EntryFormats, batch: Batch, deadline_s: float
) -> WrittenBatch:
    """Write the batch's pipeline now, without waiting: batches sent in turn reach the stream in that order."""
    if batch.aggregate_keys:
        return _send_in_order(connection, entry, batch, deadline_s)
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
    return WrittenBatch(connection.send(commands, deadline_s), unpublishable, connection.incarnation)


def _send_to_several(
    connection: RedisConnection, formats: EntryFormats, batch: Batch, deadline_s: float
) -> WrittenBatch:
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
    return WrittenBatch(connection.send(commands, deadline_s), unpublishable, connection.incarnation, streams)


def _send_in_order(
    connection: RedisConnection, formats: EntryFormat | EntryFormats, batch: Batch, deadline_s: float
) -> WrittenBatch:
    """The rows of each stream one after the other, and whole or not at all those that others of their aggregate follow.

    Redis with no memory left takes some entries of a pipeline, refuses others, and takes some again. Within MULTI it
    refuses all. Rows that are alone of their aggregate go before it: to queue a command costs Redis as much again.
    """
    unpublishable: dict[int, Unpublishable | KeptBack] = {}
    stopped: set[int] = set()  # aggregates of which an event cannot be sent: those after it wait until it is dead
    streams: dict[int, str] = {}
    by_stream: dict[str, _StreamCommands] = {}
    several, keys, after_dead = isinstance(formats, EntryFormats), batch.aggregate_keys, batch.after_dead
    sent = 0
    for position, row in enumerate(batch.rows):
        entry = formats.of(row) if isinstance(formats, EntryFormats) else formats
        if several:
            streams[row.id] = entry.stream
        if (commands := by_stream.get(entry.stream)) is None:
            commands = by_stream[entry.stream] = _StreamCommands(make=not connection.has_stream(entry.stream))
        key = keys[row.id]
        if stopped and key in stopped:
            unpublishable[position] = KeptBack()
            continue
        if reason := entry.unpublishable(row):
            unpublishable[position] = Unpublishable(reason)
            stopped.add(key)
            continue
        command = entry.xadd(row, make=commands.make)
        if after_dead and (dead := after_dead.get(row.id)) is not None:
            command = with_field(command, AFTER_DEAD, dead)
        commands.rows.append(sent)
        commands.commands.append(command)
        commands.keys.append(key)
        sent += 1
    blocks, wire = list[Block](), list[Command]()
    for commands in by_stream.values():
        commands.write(blocks, wire)
    return WrittenBatch(connection.send(wire, deadline_s), unpublishable, connection.incarnation, streams, blocks)


class _StreamCommands:
    """What goes to one stream. `make`: whether its first entry may make it."""

    def __init__(self, make: bool) -> None:
        self.make = make
        self.rows: list[int] = []  # by position among those that are sent
        self.commands: list[bytes] = []
        self.keys: list[int] = []

    def write(self, blocks: list["Block"], wire: list[Command]) -> None:
        """First the rows that are alone of their aggregate, then the others within MULTI and EXEC."""
        count = Counter(self.keys)
        together = [count[key] > 1 for key in self.keys]
        alone = [not each for each in together]
        if any(alone):
            blocks.append(Block(list(compress(self.rows, alone)), whole=False))
            wire += compress(self.commands, alone)
        if any(together):
            blocks.append(Block(list(compress(self.rows, together)), whole=True))
            wire += [MULTI, *compress(self.commands, together), EXEC]


def unsent(batch: Batch, why: str) -> WrittenBatch:
    """A batch that was not written at all: its rows are released."""
    replies: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
    replies.set_result([NotSent(why)] * len(batch.rows))
    return WrittenBatch(replies, {})


async def replies_of(written: WrittenBatch) -> list[Reply]:
    """The batch's replies, one a row, in the order of its rows."""
    # Shielded: a cancelled lane must not make a reply that arrives look lost.
    answers = await asyncio.shield(written.replies)
    replies: list[Reply] = [
        _checked(reply) for reply in (_in_blocks(written.blocks, answers) if written.blocks else answers)
    ]
    for position in sorted(written.unpublishable):
        replies.insert(position, written.unpublishable[position])
    return replies


def _in_blocks(blocks: Sequence[Block], answers: list[Any]) -> list[Any]:
    """The answer to each row that was sent, in their order."""
    replies: list[Any] = [None] * sum(len(block.rows) for block in blocks)
    at = 0
    for block in blocks:
        took = len(block.rows) + 2 if block.whole else len(block.rows)
        answered = answers[at : at + took]
        at += took
        for position, reply in zip(block.rows, _of_whole(answered) if block.whole else answered, strict=True):
            replies[position] = reply
    return replies


def _of_whole(answers: list[Any]) -> list[Any]:
    """The answers to rows within MULTI and EXEC: refused as a whole, taken, or not known."""
    begun, *queued, done = answers
    if isinstance(begun, Refused):
        # Its commands were not queued, so some were taken: to call them refused would publish them without end.
        return [each if isinstance(each, Refused | NotSent) else NoReply(begun.text) for each in queued]
    if isinstance(done, list):
        if len(done) == len(queued):
            return [Refused(str(each)) if isinstance(each, Exception) else each for each in done]
        return [NoReply(f"EXEC answered {len(done)} of {len(queued)} commands")] * len(queued)
    if isinstance(done, NotSent):
        return [done] * len(queued)
    if isinstance(done, NoReply):  # what was refused as it was queued was not applied in any case
        return [each if isinstance(each, Refused) else done for each in queued]
    if not isinstance(done, Refused):
        return [Refused(f"UNEXPECTED reply of type {type(done).__name__} to EXEC")] * len(queued)
    refused = [each for each in (begun, *queued) if isinstance(each, Refused)]
    of_sink = next((each for each in [*refused, done] if is_redis_outage(each.text) and not _aborted(each)), None)
    if of_sink is not None or not refused:
        return [of_sink or done] * len(queued)
    # One row was refused for its own sake, it seems, and the others for its: they say nothing of the sink.
    return [each if isinstance(each, Refused) else KeptBack() for each in queued]


def _aborted(refused: Refused) -> bool:
    return redis_code(refused.text) == "EXECABORT"


def _checked(reply: Any) -> Reply:
    if reply is None:
        return NotSent(GONE)
    if type(reply) is bytes and not reply[:1].isdigit():  # QUEUED, say: no entry was added
        return Refused(f"UNEXPECTED reply {reply[:20].decode(errors='replace')} to XADD")
    if isinstance(reply, list | int):
        return Refused(f"UNEXPECTED reply of type {type(reply).__name__} to XADD")
    checked: Reply = reply
    return checked
