"""What became of a row that was published or handled: seven frozen values."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from dispatcher.core.incarnation import RedisIncarnation


@dataclass(frozen=True, slots=True)
class Sent:
    """In the stream, under this entry id."""

    stream_id: str


@dataclass(frozen=True, slots=True)
class Done:
    """Its handler ended well: sent, with no entry in the stream."""


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """The row's own failure: costs it one attempt, due again after `delay_s` seconds.

    `place`: file and line of the handler that raised, for the event's history.
    """

    delay_s: float
    error: str
    place: str | None = None


@dataclass(frozen=True, slots=True)
class Waits:
    """Nobody's failure: due again after `delay_s` seconds, at no cost.

    Of a handler: it asked for that, or waits for a server, or its process ended. Of a row of the stream: Redis ended
    while it was sent, or may have, so it is published alone next.
    """

    delay_s: float
    error: str


@dataclass(frozen=True, slots=True)
class FailedForGood:
    """Its last attempt failed, or it can never succeed: to the dead-letter queue. `place`: as of FailedAttempt."""

    error: str
    place: str | None = None


@dataclass(frozen=True, slots=True)
class Released:
    """Not the row's failure, and certainly not applied (sink away, no handler free, a stop): due again at no cost.

    `error`: how the sink failed, or why no handler ran; None: it was not sent, as another row kept it back or
    we stopped; that says nothing of the sink.
    """

    error: str | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may be in the stream or not: no answer came, or none that can be relied on."""

    error: str


Outcome = Sent | Done | FailedAttempt | Waits | FailedForGood | Released | Unknown


@dataclass(slots=True)
class BatchOutcomes:
    """The outcomes of one batch, as the columns the settle statements take.

    Columns rather than one object a row: in the usual case every row is sent and nothing is allocated per row.
    """

    sent_ids: list[int] = field(default_factory=list)
    stream_ids: list[str] = field(default_factory=list)
    done_ids: list[int] = field(default_factory=list)
    retries: list[tuple[int, FailedAttempt | Waits]] = field(default_factory=list)  # their status: `retry`
    dead: list[tuple[int, FailedForGood]] = field(default_factory=list)
    released: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)
    sink_error: str | None = None  # why the sink failed, when it did: opens the breaker
    incarnation: RedisIncarnation | None = None  # what holds the entries of `sent_ids`; None: not known, not asked
    streams: Mapping[int, str] = field(default_factory=dict)  # by row id; empty: only one, or nothing written

    @classmethod
    def of(
        cls,
        rows: Iterable[tuple[int, Outcome]],
        incarnation: RedisIncarnation | None,
        streams: Mapping[int, str] | None = None,
    ) -> "BatchOutcomes":
        """The outcomes of these rows. `incarnation`: what holds the entries of those that were sent."""
        made = cls(incarnation=incarnation, streams=streams or {})
        for row_id, outcome in rows:
            made.add(row_id, outcome)
        return made

    def each(self) -> list[tuple[int, Outcome]]:
        """(row id, outcome) of every row, to settle some of them apart from the others."""
        return [
            *((row_id, Sent(stream_id)) for row_id, stream_id in zip(self.sent_ids, self.stream_ids, strict=True)),
            *((row_id, Done()) for row_id in self.done_ids),
            *self.retries,
            *self.dead,
            *((row_id, Released(self.sink_error)) for row_id in self.released),
            *((row_id, Unknown(self.sink_error or "")) for row_id in self.unknown),
        ]

    def known_ids(self) -> set[int]:
        """The ids of the rows whose outcome is known."""
        known = {*self.sent_ids, *self.done_ids, *self.released}
        known.update(row_id for row_id, _ in self.retries)
        known.update(row_id for row_id, _ in self.dead)
        return known

    def doubt_sent(self) -> None:
        """Note what was sent as unknown: another incarnation of Redis holds the stream, perhaps without them."""
        self.unknown.extend(self.sent_ids)
        self.sent_ids.clear()
        self.stream_ids.clear()

    def buried(self, without: Collection[int]) -> list[tuple[int, str]]:
        """Id and error of each row that is dead, `without` these, which were not written."""
        return [(row_id, dead.error) for row_id, dead in self.dead if row_id not in without]

    def add(self, row_id: int, outcome: Outcome) -> None:
        """Note one row's outcome."""
        match outcome:
            case Sent(stream_id):
                self.sent_ids.append(row_id)
                self.stream_ids.append(stream_id)
            case Done():
                self.done_ids.append(row_id)
            case FailedAttempt() | Waits():
                self.retries.append((row_id, outcome))
            case FailedForGood():
                self.dead.append((row_id, outcome))
            case Released(error):
                self.released.append(row_id)
                self.sink_error = self.sink_error or error
            case Unknown(error):
                self.unknown.append(row_id)
                self.sink_error = self.sink_error or error
