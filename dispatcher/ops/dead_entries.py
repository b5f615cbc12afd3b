"""The entries that the consumers of a group have put away: counted, listed, published again, removed.

Each lies in the group's dead stream in Redis. Its event was sent, so no dead letter in Postgres tells of it.
"""

import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple, Self
from uuid import UUID

from dispatcher.core.dead_stream import dead_stream_of
from dispatcher.core.errors import DispatcherError
from dispatcher.core.incarnation import id_after, id_before
from dispatcher.infra.redis.client import open_client
from dispatcher.infra.redis.target import RedisTarget
from dispatcher.ops.groups import try_to_connect
from dispatcher.ops.redis_errors import explained
from dispatcher.ops.replay import ReplaySession, Selection

ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")  # of an entry
BATCH = 200  # entries that are published again, or removed, together
NAMES = (
    "event_id", "message_id", "event_type", "aggregate_type", "aggregate_id", "occurred_at", "after_dead",
    "dead_reason", "dead_entry_id", "dead_deliveries",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DeadEntry:
    """An entry of a dead stream. Its id is unique in its stream only. `fields`: all that it holds, the payload too."""

    stream: str
    id: str
    fields: dict[str, str]

    @property
    def sort_key(self) -> tuple[int, int, str]:
        """Where it comes among those of all dead streams: the one that was put away last has the greatest."""
        millis, _, number = self.id.partition("-")
        return int(millis), int(number), self.stream

    @property
    def event_id(self) -> UUID | None:
        """Of the field event_id; None: it has none, or no UUID, so no row of the outbox can be its."""
        try:
            return UUID(self.fields.get("event_id", ""))
        except ValueError:
            return None

    @property
    def put_away_at(self) -> datetime | None:
        """By Redis's clock; None: whoever added it chose an id of his own."""
        try:
            return datetime.fromtimestamp(self.sort_key[0] / 1000, UTC)
        except (ValueError, OverflowError, OSError):
            return None

    def shown(self, *, payload: bool) -> dict[str, str]:
        """What may be shown of it: not the payload, nor any field that we do not know, unless asked for."""
        return {name: value for name, value in self.fields.items() if payload or name in NAMES}


class Left(NamedTuple):
    """An entry whose event was not published again, and why."""

    id: str
    event_id: str | None
    why: str


class DeadEntries:
    """`async with DeadEntries(...) as dead:` for the dead streams of one group. Everything raises DispatcherError.

    `keys`: of the stream. `dead_stream`: the one that the consumers name in place of the default, "" for none.
    """

    def __init__(self, url: str, keys: Sequence[str], group: str, dead_stream: str, timeout_s: float) -> None:
        self.streams = (dead_stream,) if dead_stream else tuple(dead_stream_of(key, group) for key in keys)
        self._where = f"Redis at {RedisTarget.parse(url).address()}"
        self._url = url
        self._timeout_s = timeout_s

    async def __aenter__(self) -> Self:
        await try_to_connect(self._url, (), self._timeout_s)
        self._client: Any = open_client(self._url, self._timeout_s)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._client.aclose()

    async def count(self) -> int:
        total = 0
        for stream in self.streams:
            with self._explained(stream, "+xlen"):
                total += int(await self._client.xlen(stream))
        return total

    async def newest(self, limit: int, before: str | None) -> list[DeadEntry]:
        """Those that were put away last. `before`: an id; only those before it."""
        found: list[DeadEntry] = []
        for stream in self.streams:
            with self._explained(stream, "+xrevrange"):
                page = await self._client.xrevrange(stream, id_before(before) if before else "+", "-", count=limit)
            found += _entries(stream, page)
        return sorted(found, key=attrgetter("sort_key"), reverse=True)[:limit]

    async def named(self, ids: Iterable[str]) -> list[DeadEntry]:
        """The entries of these ids. Raises DispatcherError for one that is not there, or in several dead streams."""
        found = []
        for each in dict.fromkeys(ids):
            there: list[DeadEntry] = []
            for stream in self.streams:
                with self._explained(stream, "+xrange"):
                    there += _entries(stream, await self._client.xrange(stream, each, each))
            if not there:
                raise DispatcherError(f"no entry {each} is in {', '.join(self.streams[:3])}")
            if len(there) > 1:
                raise DispatcherError(
                    f"the id {each} is in {there[0].stream} and in {there[1].stream}: choose one with --dead-stream"
                )
            found += there
        return found

    async def batches(self, ids: Sequence[str]) -> AsyncIterator[list[DeadEntry]]:
        """Those of these ids; without any all, the oldest of each stream first, but not what comes meanwhile."""
        named = await self.named(ids)
        for start in range(0, len(named), BATCH):
            yield named[start : start + BATCH]
        for stream in () if ids else self.streams:
            with self._explained(stream, "+xrange +xrevrange"):
                last = _entries(stream, await self._client.xrevrange(stream, count=1))
            begin = "-"
            while last:
                with self._explained(stream, "+xrange"):
                    page = _entries(stream, await self._client.xrange(stream, begin, last[0].id, count=BATCH))
                if not page:
                    break
                yield page
                begin = id_after(page[-1].id)

    async def remove(self, entries: Iterable[DeadEntry]) -> int:
        """Delete them for good; how many were still there."""
        removed = 0
        for stream, those in groupby(sorted(entries, key=attrgetter("stream")), attrgetter("stream")):
            with self._explained(stream, "+xdel"):
                removed += int(await self._client.xdel(stream, *(each.id for each in those)))
        return removed

    async def publish_again(self, replay: ReplaySession, entries: Sequence[DeadEntry]) -> tuple[int, list[Left]]:
        """Put the rows of their events back to be published, and after that remove the entries: how many, which stay.

        One whose row is not put back stays: it may be the last copy of its event.
        """
        why: dict[UUID | None, str] = {None: "it is no event of ours"}
        wanted = {each.event_id for each in entries if each.event_id is not None}
        if wanted:  # a selection that names none would be of all sent rows
            found = await replay.find(Selection(event_ids=sorted(wanted)))
            before = len(replay.skipped_ids)
            await replay.put_back(found, lambda rows: None)
            of_row = dict(zip(found.ids, found.event_ids, strict=True))
            why |= {each.event_id: each.why for each in found.unsent}
            why |= {of_row[each]: "somebody locked or changed its row" for each in replay.skipped_ids[before:]}
        done = [each for each in entries if each.event_id not in why]
        await self.remove(done)
        left = [each for each in entries if each.event_id in why]
        return len(done), [Left(each.id, each.fields.get("event_id"), why[each.event_id]) for each in left]

    def _explained(self, stream: str, rights: str) -> AbstractContextManager[None]:
        return explained(self._where, stream, rights)


def _entries(stream: str, page: Any) -> list[DeadEntry]:
    return [
        DeadEntry(stream, _text(entry_id), {_text(name): _text(value) for name, value in fields.items()})
        for entry_id, fields in page or ()
    ]


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
