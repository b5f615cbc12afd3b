"""The steps of the protocol, and how answers are read."""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Literal

from dispatcher.client.group import Group
from dispatcher.client.received import Received


@dataclass(frozen=True, slots=True)
class Call:
    """Call this method of the Redis client."""

    method: str
    arguments: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunHandler:
    """Call the handler, or the dedup store: `has` before the handler, `add` after it."""

    what: Literal["has", "handle", "add"]
    event: Received


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Close the connections to Redis that nobody uses just now: they may lead to the wrong server."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait so many seconds, or until a stop."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry that was delivered to this consumer."""

    id: str
    fields: dict[Any, Any]
    deliveries: int


Step = Call | RunHandler | Reconnect | Wait
Steps = Generator[Step, Any, Any]


def call(group: Group, method: str, *arguments: Any, **options: Any) -> Call:
    """A Call whose first arguments are the stream and the group."""
    return Call(method, (group.stream, group.group, *arguments), options)


def entries_of(reply: Any) -> list[tuple[Any, dict[Any, Any]]]:
    """The entries of an XREADGROUP of one stream, in whichever shape redis-py gives it (RESP2, RESP3, unified)."""
    pages = reply.values() if isinstance(reply, dict) else [page for _, page in reply or ()]
    return [entry for page in pages for item in page for entry in (item if isinstance(item, list) else [item])]


def text(value: str | bytes) -> str:
    """An id as text, whether the client decodes replies or not."""
    return value.decode() if isinstance(value, bytes) else value
