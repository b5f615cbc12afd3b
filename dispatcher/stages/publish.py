"""Publish: one pipeline a batch, one reply a row, nothing written twice."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any, NamedTuple

from dispatcher.core.decide import KeptBack, NoReply, NotApplied, Refused, Reply, Unpublishable
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
    """A batch whose pipeline is written: the replies to come, and the rows that were not written."""

    replies: asyncio.Future[list[Any]]
    # By position in the batch, what stands for the reply to a row that was not written. KeptBack, with an order: an
    # earlier event of the aggregate can never be published, and this row waits until that event is dead.
    not_written: Mapping[int, Unpublishable | KeptBack]
    incarnation: RedisIncarnation | None = None  # of Redis, as the pipeline was written
    streams: Mapping[int, str] = {}  # row id to stream; empty: only one, or nothing written
    blocks: Sequence["Block"] = ()  # with an order: the blocks of the pipeline, as they were written


class Block(NamedTuple):
    """Rows of one stream, by position among the rows that were written. `in_transaction`: within MULTI and EXEC."""

    rows: list[int]
    in_transaction: bool


def send(
    connection: RedisConnection, entry: EntryFormat | EntryFormats, batch: Batch, deadline_s: float
) -> WrittenBatch:
    """Write the batch's pipeline now, without waiting: batches written in turn reach the stream in that order."""
    if batch.aggregate_keys:
        return _send_in_order(connection, entry, batch, deadline_s)
    if isinstance(entry, EntryFormats):
        return _send_to_several(connection, entry, batch, deadline_s)
    not_written: dict[int, Unpublishable] = {}
    commands: list[bytes] = []
    may_create = not connection.has_stream(entry.stream)
    for position, row in enumerate(batch.rows):
        if reason := entry.unpublishable(row):
            not_written[position] = Unpublishable(reason)
        else:
            commands.append(entry.xadd(row, may_create=may_create))
    return WrittenBatch(connection.send(commands, deadline_s), not_written, connection.incarnation)


def _send_to_several(
    connection: RedisConnection, formats: EntryFormats, batch: Batch, deadline_s: float
) -> WrittenBatch:
    not_written: dict[int, Unpublishable] = {}
    commands: list[bytes] = []
    streams: dict[int, str] = {}
    may_create: dict[str, bool] = {}
    for position, row in enumerate(batch.rows):
        entry = formats.of(row)
        streams[row.id] = stream = entry.stream
        if reason := entry.unpublishable(row):
            not_written[position] = Unpublishable(reason)
            continue
        if stream not in may_create:
            may_create[stream] = not connection.has_stream(stream)
        commands.append(entry.xadd(row, may_create=may_create[stream]))
    return WrittenBatch(connection.send(commands, deadline_s), not_written, connection.incarnation, streams)


def _send_in_order(
    connection: RedisConnection, formats: EntryFormat | EntryFormats, batch: Batch, deadline_s: float
) -> WrittenBatch:
    """Write the streams one after the other. Where several rows are of one aggregate, all are taken or none.

    Redis with no memory left takes some entries of a pipeline, refuses others, and takes some again. Within MULTI it
    refuses all. A row that is the only one of its aggregate is written before MULTI: a command within MULTI costs Redis
    twice as much.
    """
    not_written: dict[int, Unpublishable | KeptBack] = {}
    stopped: set[int] = set()  # aggregates of an event that can never be published: later events wait until it is dead
    streams: dict[int, str] = {}
    by_stream: dict[str, _StreamCommands] = {}
    several, keys, after_dead = isinstance(formats, EntryFormats), batch.aggregate_keys, batch.after_dead
    written = 0
    for position, row in enumerate(batch.rows):
        entry = formats.of(row) if isinstance(formats, EntryFormats) else formats
        if several:
            streams[row.id] = entry.stream
        if (commands := by_stream.get(entry.stream)) is None:
            commands = by_stream[entry.stream] = _StreamCommands(may_create=not connection.has_stream(entry.stream))
        key = keys[row.id]
        if stopped and key in stopped:
            not_written[position] = KeptBack()
            continue
        if reason := entry.unpublishable(row):
            not_written[position] = Unpublishable(reason)
            stopped.add(key)
            continue
        command = entry.xadd(row, may_create=commands.may_create)
        if after_dead and (dead := after_dead.get(row.id)) is not None:
            command = with_field(command, AFTER_DEAD, dead)
        commands.rows.append(written)
        commands.commands.append(command)
        commands.keys.append(key)
        written += 1
    blocks, wire = list[Block](), list[Command]()
    for commands in by_stream.values():
        commands.write(blocks, wire)
    return WrittenBatch(connection.send(wire, deadline_s), not_written, connection.incarnation, streams, blocks)


class _StreamCommands:
    """The commands for one stream. `may_create`: whether an XADD may create the stream."""

    def __init__(self, may_create: bool) -> None:
        self.may_create = may_create
        self.rows: list[int] = []  # by position among the rows that are written
        self.commands: list[bytes] = []
        self.keys: list[int] = []

    def write(self, blocks: list["Block"], wire: list[Command]) -> None:
        """Append to both: first the rows that are alone of their aggregate, then the others within MULTI and EXEC."""
        count = Counter(self.keys)
        together = [count[key] > 1 for key in self.keys]
        alone = [not each for each in together]
        if any(alone):
            blocks.append(Block(list(compress(self.rows, alone)), in_transaction=False))
            wire += compress(self.commands, alone)
        if any(together):
            blocks.append(Block(list(compress(self.rows, together)), in_transaction=True))
            wire += [MULTI, *compress(self.commands, together), EXEC]


def unwritten(batch: Batch, why: str) -> WrittenBatch:
    """A batch of which nothing is written: its rows are released."""
    replies: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
    replies.set_result([NotApplied(why)] * len(batch.rows))
    return WrittenBatch(replies, {})


async def replies_of(written: WrittenBatch) -> list[Reply]:
    """The batch's replies, one a row, in the order of its rows."""
    # Shielded: a cancelled lane must not make a reply that arrives look lost.
    answers = await asyncio.shield(written.replies)
    replies: list[Reply] = [
        _checked(reply) for reply in (_in_blocks(written.blocks, answers) if written.blocks else answers)
    ]
    for position in sorted(written.not_written):
        replies.insert(position, written.not_written[position])
    return replies


def _in_blocks(blocks: Sequence[Block], answers: list[Any]) -> list[Any]:
    """The reply to each row that was written, in the order of the rows."""
    replies: list[Any] = [None] * sum(len(block.rows) for block in blocks)
    at = 0
    for block in blocks:
        took = len(block.rows) + 2 if block.in_transaction else len(block.rows)
        answered = answers[at : at + took]
        at += took
        if block.in_transaction:
            answered = _of_transaction(answered)
        for position, reply in zip(block.rows, answered, strict=True):
            replies[position] = reply
    return replies


def _of_transaction(answers: list[Any]) -> list[Any]:
    """The replies to the rows between MULTI and EXEC: as a rule all are refused, all are taken, or none is known."""
    begun, *queued, done = answers
    if isinstance(begun, Refused):
        # MULTI was refused, so each XADD ran by itself and some were taken: called refused, they would be published
        # again and again.
        return [each if isinstance(each, Refused | NotApplied) else NoReply(begun.text) for each in queued]
    if isinstance(done, list):
        if len(done) == len(queued):
            return [Refused(str(each)) if isinstance(each, Exception) else each for each in done]
        return [NoReply(f"EXEC answered {len(done)} of {len(queued)} commands")] * len(queued)
    if isinstance(done, NotApplied):
        return [done] * len(queued)
    if isinstance(done, NoReply):  # a command that MULTI refused to queue was not applied in any case
        return [each if isinstance(each, Refused) else done for each in queued]
    if not isinstance(done, Refused):
        return [Refused(f"UNEXPECTED reply of type {type(done).__name__} to EXEC")] * len(queued)
    refused = [each for each in (begun, *queued) if isinstance(each, Refused)]
    of_sink = next((each for each in [*refused, done] if is_redis_outage(each.text) and not _aborted(each)), None)
    if of_sink is not None or not refused:
        return [of_sink or done] * len(queued)
    # One row was refused because of itself, it seems, and the others because of that row: the sink is not to blame.
    return [each if isinstance(each, Refused) else KeptBack() for each in queued]


def _aborted(refused: Refused) -> bool:
    return redis_code(refused.text) == "EXECABORT"


def _checked(reply: Any) -> Reply:
    if reply is None:
        return NotApplied(GONE)
    if type(reply) is bytes and not reply[:1].isdigit():  # QUEUED, say: no entry was added
        return Refused(f"UNEXPECTED reply {reply[:20].decode(errors='replace')} to XADD")
    if isinstance(reply, list | int):
        return Refused(f"UNEXPECTED reply of type {type(reply).__name__} to XADD")
    checked: Reply = reply
    return checked
