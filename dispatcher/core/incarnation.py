"""Which incarnation of Redis a connection leads to, and what is known of the end of a stream: its newest entries.

Another incarnation may have lost what this one acknowledged. A stream may also lose its end while its server runs on:
by FLUSHALL, DEL, RENAME, or when an older copy of the stream is put in its place.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

ANOTHER_INCARNATION = "DS001"  # the SQLSTATE of messaging.holds_stream: another one holds the stream now


@dataclass(frozen=True, slots=True)
class RedisIncarnation:
    """Identifies one lifetime of one Redis data set, by run id and replication id ("" where Redis does not tell).

    If it changes, acknowledged entries may be lost. `lives`: each stream in it, and how often that stream lost its end
    while a server ran on.
    """

    run_id: str = ""
    replid: str = ""
    lives: tuple[tuple[str, int], ...] = ()

    @property
    def known(self) -> bool:
        """Whether Redis told both ids, so that one incarnation can be told from another."""
        return bool(self.run_id and self.replid)

    def same_server(self, other: "RedisIncarnation | None") -> bool:
        """Whether both ids are the same, known or not, whatever became of the streams."""
        return other is not None and (self.run_id, self.replid) == (other.run_id, other.replid)

    def same_and_known(self, now: "RedisIncarnation | None") -> bool:
        """Whether `now`, which answers now, is certainly the same lifetime of the same data set: both ids are known."""
        return self.known and self.same_server(now)

    def lives_of(self, streams: Iterable[str]) -> list[tuple[str, int]]:
        """The streams among these that lie on this incarnation, each with its life."""
        wanted = set(streams)
        return [(stream, life) for stream, life in self.lives if stream in wanted]


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """A stream as XINFO STREAM tells of it. None: the stream has no entry, or this Redis is too old to tell."""

    last_id: str = "0-0"  # the newest entry id that it ever gave
    length: int = 0
    first_id: str | None = None
    newest_id: str | None = None  # of the entries that are there
    added: int | None = None  # entries that were ever added
    deleted_id: str | None = None  # the newest one that was deleted with XDEL

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "StreamEnd":
        """`fields`: of XINFO STREAM, by name. What a server before Redis 7 does not tell is None."""
        first, newest = fields.get("first-entry"), fields.get("last-entry")
        added, deleted = fields.get("entries-added"), fields.get("max-deleted-entry-id")
        return cls(
            fields.get("last-generated-id", b"0-0").decode(),
            int(fields.get("length", 0)),
            first[0].decode() if isinstance(first, list) else None,
            newest[0].decode() if isinstance(newest, list) else None,
            None if added is None else int(added),
            None if deleted is None else deleted.decode(),
        )

    @property
    def known_id(self) -> str:
        """What to remember: an entry that is there, if there is one, so that it can be looked for later."""
        return self.newest_id or self.last_id


def lost_its_end(known_id: str, noted_id: str, added: int | None, end: StreamEnd, *, there: bool) -> bool:
    """Whether the entry `known_id`, which the stream once held, is gone though nobody trimmed or deleted it.

    `added`: entries that had been added when `noted_id`, the same or an older one, was the newest. `there`: the entry
    of `known_id` is in the stream.
    """
    if stream_order(end.last_id) < stream_order(known_id):
        return True
    if added is None or end.added is None or end.deleted_id is None:
        return False  # a Redis before 7.0 tells no more
    if end.added < added:
        return True
    if there or stream_order(end.deleted_id) >= stream_order(known_id):
        return False
    if end.first_id is not None and stream_order(end.first_id) <= stream_order(known_id):
        return True  # older entries are there, so it was not trimmed: an older copy of the stream
    # All that is there is newer than the known entry, which was trimmed if no more entries are there than were added
    # after it (one fewer than after the noted one, at least, where that is older). More are there: another life.
    return end.length > end.added - added - (stream_order(known_id) > stream_order(noted_id))


def stream_order(stream_id: str) -> tuple[int, int]:
    """A key to sort entry ids by: they are numbers, not text."""
    milliseconds, _, sequence = stream_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def id_after(stream_id: str) -> str:
    """The first id after this one. "(id" says the same, but only since Redis 6.2."""
    milliseconds, sequence = stream_order(stream_id)
    return f"{milliseconds + 1}-0" if sequence == 2**64 - 1 else f"{milliseconds}-{sequence + 1}"


def id_before(stream_id: str) -> str:
    """The last id before this one; of the first one, which no entry has, itself."""
    milliseconds, sequence = stream_order(stream_id)
    if sequence:
        return f"{milliseconds}-{sequence - 1}"
    return f"{milliseconds - 1}-{2**64 - 1}" if milliseconds else "0-0"
