"""Messages between the measuring processes and their parent."""

from typing import NamedTuple


class Ready(NamedTuple):
    """To the parent: connected, waiting for the start."""


class Start(NamedTuple):
    """To the producer: begin at this reading of the monotonic clock, which all processes of a machine share."""

    at_ns: int


class Stop(NamedTuple):
    """To the consumer: read what is still in the stream, report, end."""


class Committed(NamedTuple):
    """From the producer: (moment its commit returned, event_id) of each event."""

    events: list[tuple[int, bytes]]


class ConsumerProgress(NamedTuple):
    """From the consumer: (moment its read returned, the event_ids of that read)."""

    reads: list[tuple[int, list[bytes]]]


class ProducerDone(NamedTuple):
    """From the producer, last: its totals."""

    events: int
    transactions: int
    grouped: int  # events that shared their transaction with others
    seconds: float
    latest_s: float  # how far behind its due time the most belated event was begun


class Ended(NamedTuple):
    """From the consumer, last: the stream is read to its end."""


class CannotGoOn(NamedTuple):
    """From either: it cannot go on. The reason holds no payload and no password."""

    reason: str


DemoMessage = Ready | Committed | ConsumerProgress | ProducerDone | Ended | CannotGoOn
