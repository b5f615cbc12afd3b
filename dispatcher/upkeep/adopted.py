"""Rows that were taken over, and the search for them: in the stream of a server, or of each shard of a Cluster."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from dispatcher.core.incarnation import RedisIncarnation, stream_order
from dispatcher.core.layout import Layout
from dispatcher.core.row import HandlerMark
from dispatcher.infra.postgres.session import UNREADABLE, Session
from dispatcher.infra.redis.connection import RedisConnection
from dispatcher.infra.redis.search import Search, Searcher, by_stream
from dispatcher.infra.sqlfiles import load
from dispatcher.stages.claim import PROOF_EVENT_TYPE


class AdoptedRow(NamedTuple):
    """A row that was put under a claim of ours. `stream_id`: its floor, or the mark of a row for a handler."""

    id: int
    event_id: str
    stream_id: str | None
    attempts: int
    event_type: str
    slot: int

    @property
    def floor(self) -> str | None:
        """The entry id after which the row may be in the stream. None: it is not in the stream.

        So it is with a row for a handler, a proof event, and a row that was set to `picked` by hand.
        """
        return None if self.event_type == PROOF_EVENT_TYPE or self.begun else self.stream_id

    @property
    def begun(self) -> bool:
        """Whether its handler had begun, or may have."""
        return self.stream_id in tuple(HandlerMark)


async def adopt(session: Session, parameters: Mapping[str, object]) -> list[AdoptedRow]:
    """Put rows under a claim of ours, see adopt.sql. Raises SessionLost or psycopg.Error."""
    try:
        rows = await session.fetch(load("adopt"), {**parameters, "escaped": False})
    except UNREADABLE:
        rows = await session.fetch(load("adopt"), {**parameters, "escaped": True})
    else:
        return [AdoptedRow._make(row) for row in rows]
    adopted = [AdoptedRow._make(row) for row in rows]
    return [await _with_type(session, row) if "\\" in row.event_type else row for row in adopted]


async def _with_type(session: Session, row: AdoptedRow) -> AdoptedRow:
    """The row with its event type as it is: it says which stream is searched."""
    try:
        read = await session.fetch(load("read_row"), {"ids": [row.id], "most_bytes": 0})
    except UNREADABLE:  # such a row is never published, so it is in no stream
        return row
    return row._replace(event_type=read[0][3]) if read else row


@dataclass(frozen=True, slots=True)
class Adopted:
    """Rows under one claim of ours that are not settled yet. `cause`: what happened to their owner.

    `died`: the name of an owner whose lock was free; before `settle_from` nobody knows whether it lives. Monotonic s.
    """

    claim_id: str
    rows: list[AdoptedRow]
    cause: str
    died: str | None = None
    settle_from: float = 0.0


def of_the_dead(adopted: Adopted, name: str, settle_from: float) -> list[Adopted]:
    """The rows to be settled at once, and those whose handler had begun, to be settled from then on."""
    begun = [row for row in adopted.rows if row.begun]
    others = [row for row in adopted.rows if not row.begun]
    parts = [replace(adopted, rows=others), replace(adopted, rows=begun, died=name, settle_from=settle_from)]
    return [part for part in parts if part.rows]


async def renew(session: Session, adopted: Sequence[Adopted]) -> None:
    """Renew the leases of these rows: else other dispatchers would take us for frozen.

    Raises SessionLost or psycopg.Error.
    """
    rows = [(row.id, each.claim_id) for each in adopted for row in each.rows]
    ids, claim_ids = [row_id for row_id, _ in rows], [claim_id for _, claim_id in rows]
    await session.fetch(load("renew_claims"), {"ids": ids, "claim_ids": claim_ids, "floor": None})


@dataclass(frozen=True, slots=True)
class SearchedSink:
    """A connection that publishes to these streams, and the searcher of these streams.

    `slots`: rows of these slots go to this sink, if it is a shard; empty: it is the only sink.
    """

    streams: Sequence[str]
    connection: RedisConnection
    searcher: Searcher
    slots: Sequence[int] = ()


class FoundEntries(NamedTuple):
    """What was found on one sink: row id to entry id, and the incarnation of Redis that has the entries."""

    entries: dict[int, str]
    incarnation: RedisIncarnation | None


class AdoptedSearch:
    """Searches all sinks for adopted rows. Written by the takeover's task only."""

    def __init__(self, sinks: Sequence[SearchedSink], layout: Layout, *, lease_s: float) -> None:
        self._sinks = sinks
        self._layout = layout
        self._lease_s = lease_s
        self._searches: dict[int, tuple[str, Search]] = {}  # by sink: claim id, and the search for rows of that claim
        # As note_which_answer() found it last: the incarnation of each sink, and the sinks that do not answer.
        self._incarnations: list[RedisIncarnation | None] = [None] * len(sinks)
        self._away: list[SearchedSink] = []

    def note_which_answer(self) -> bool:
        """Note which sinks answer. Returns whether dispatchers can be fenced now, and streams searched.

        In a Cluster one shard that answers is enough: rows of the others wait, see `left_out`. Elsewhere all sinks
        have to answer.
        """
        self._incarnations = [each.connection.incarnation for each in self._sinks]
        self._away = [each for each in self._sinks if not each.connection.up or each.connection.incarnation is None]
        return not self._away or (len(self._away) < len(self._sinks) and all(each.slots for each in self._sinks))

    @property
    def has_sinks(self) -> bool:
        """Whether there is any stream to be searched."""
        return bool(self._sinks)

    @property
    def left_out(self) -> list[int]:
        """The slots whose rows cannot be taken over now: their sink is away, so nobody can be fenced there."""
        return [slot for sink in self._away for slot in sink.slots]

    def connections(self) -> list[RedisConnection]:
        """One connection to each server that answers."""
        there = [each.connection for each in self._sinks if each not in self._away]
        return list({connection.server: connection for connection in there}.values())

    def split(self, adopted: Adopted, now: float) -> tuple[Adopted, Adopted]:
        """The rows that can be settled now, and those that wait: for their sink, or to know if their owner lives."""
        if now < adopted.settle_from:
            return replace(adopted, rows=[]), adopted
        away = {stream for sink in self._away for stream in sink.streams}
        waiting = [row for row in adopted.rows if row.floor and self._layout.key_of(row.event_type, row.slot) in away]
        searchable = [row for row in adopted.rows if row not in waiting] if waiting else adopted.rows
        return replace(adopted, rows=searchable), replace(adopted, rows=waiting)

    async def find(self, session: Session, adopted: Adopted) -> list[FoundEntries]:
        """The rows that are in the streams, by sink. Raises Unreachable, SessionLost or psycopg.Error."""
        floors = {row.id: row.floor for row in adopted.rows if row.floor}
        if not floors:
            return []
        floor = min(floors.values(), key=stream_order)
        wanted = by_stream(self._layout, [row for row in adopted.rows if row.id in floors])
        found = []
        for number, (sink, incarnation) in enumerate(zip(self._sinks, self._incarnations, strict=True)):
            here = {stream: events for stream, events in wanted.items() if stream in sink.streams}
            if not here:
                continue
            begin = sink.connection.known_entries.search_from(floor)
            last = self._searches.get(number)
            if last is None or last[0] != adopted.claim_id or last[1].incarnation != incarnation:
                last = self._searches[number] = (adopted.claim_id, Search(begin, here, incarnation))
            search = last[1]  # after a failure this search goes on where it was
            while not await sink.searcher.go_on(search, self._lease_s / 4):
                await renew(session, [adopted])
            found.append(FoundEntries(search.found, incarnation))
        return found
