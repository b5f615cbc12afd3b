"""The steps of the protocol, and how answers are read."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from dispatcher.client.received import Received
from dispatcher.core.page_size import size_of


@dataclass(frozen=True, slots=True)
class Call:
    """Call this method of the Redis client. The answer is the client's; what it raises is raised in the steps."""

    method: str
    arguments: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CallApplication:
    """Call code of the application: its function, or its dedup store (`has` before the function, `add` after it)."""

    what: Literal["has", "handle", "add"]
    event: Received


@dataclass(frozen=True, slots=True)
class TakePermit:
    """Wait up to so many seconds until this reader has a permit to handle an event: the readers of one consumer share
    `concurrency` permits. The answer says whether it has one.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class ReturnPermit:
    """Give the permit back unused. Nothing, without a permit."""


@dataclass(frozen=True, slots=True)
class Handle:
    """Carry out the steps of one entry, with the permit that was taken, which goes back when they end. They may go on
    beside those that follow; what they raise is then put into `failed` of the reader.
    """

    steps: "Steps"


@dataclass(frozen=True, slots=True)
class Join:
    """Wait until the steps of all entries of this reader are done."""


@dataclass(frozen=True, slots=True)
class AwaitEntry:
    """Wait up to so many seconds until one of the entries in hand is done."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Close the connections to Redis that nobody uses just now: they may lead to the wrong server."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait so many seconds, or until a stop."""

    seconds: float


@dataclass(slots=True)
class Entry:
    """An entry that was delivered to this consumer. Its id is unique in its key only."""

    id: str
    fields: dict[Any, Any]
    deliveries: int
    key: str
    since: float  # when it was delivered, or claimed again, on the reader's clock; written by the lease
    fence: int = 0  # the token of the lease under which it is handled, with ordered=True

    @property
    def ref(self) -> tuple[str, str]:
        """Which entry it is, among those of all keys."""
        return self.key, self.id


@dataclass(frozen=True, slots=True)
class Deliver:
    """Give this event to whoever reads, of a stream that is read without a group."""

    event: Received


Step = Call | CallApplication | TakePermit | ReturnPermit | Handle | Join | AwaitEntry | Deliver | Reconnect | Sleep
Steps = Generator[Step, Any, Any]


def advance(steps: Steps, answer: Any, error: Exception | None) -> Step | None:
    """Send the answer, or throw the error, into the steps; returns the next step, None at the end."""
    try:
        return steps.send(answer) if error is None else steps.throw(error)
    except StopIteration:
        return None


def pages_of(reply: Any) -> list[tuple[str, list[tuple[Any, dict[Any, Any]]]]]:
    """The keys of an XREADGROUP and their entries, in whichever shape redis-py gives it (RESP2, RESP3, unified)."""
    pages = reply.items() if isinstance(reply, dict) else reply or ()
    return [
        (text(key), [entry for item in page for entry in (item if isinstance(item, list) else [item])])
        for key, page in pages
    ]


def sizes_of(entries: Iterable[tuple[Any, dict[Any, Any]]]) -> list[int]:
    """The bytes of each of these entries."""
    return [size_of((*fields, *fields.values())) for _, fields in entries]


def text(value: str | bytes) -> str:
    """An id or a key as text, whether the client decodes replies or not."""
    return value.decode() if isinstance(value, bytes) else value
