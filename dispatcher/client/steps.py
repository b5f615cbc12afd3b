"""The steps of the protocol, and how answers and errors are read."""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Literal

import redis

from dispatcher.client.group import Group
from dispatcher.client.received import Received

LONGEST_PAUSE_S = 5.0
# The first words of error replies that describe a passing state, for which redis-py has no class.
PASSING = ("UNBLOCKED", "NOREPLICAS", "MISCONF")


class NotNow(redis.ConnectionError):
    """The server refuses because of a passing state. `str()` is the first word of its reply."""


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
class Wait:
    """Wait so many seconds, or until a stop."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry that was delivered to this consumer."""

    id: str
    fields: dict[Any, Any]
    deliveries: int


Steps = Generator[Call | RunHandler | Wait, Any, Any]


def call(group: Group, method: str, *arguments: Any, **options: Any) -> Call:
    """A Call whose first arguments are the stream and the group."""
    return Call(method, (group.stream, group.group, *arguments), options)


def of_call(error: Exception) -> Exception:
    """The error of a call, as NotNow if it describes a passing state."""
    code = str(error).partition(" ")[0]
    return NotNow(code) if isinstance(error, redis.ResponseError) and code in PASSING else error


def pause_s(failures: int) -> float:
    """Seconds to wait after so many failures: 0.1, doubling, at most LONGEST_PAUSE_S."""
    return min(LONGEST_PAUSE_S, 0.1 * 2.0 ** min(failures, 10))


def entries_of(reply: Any) -> list[tuple[Any, dict[Any, Any]]]:
    """The entries of an XREADGROUP of one stream, in whichever shape redis-py gives it (RESP2, RESP3, unified)."""
    pages = reply.values() if isinstance(reply, dict) else [page for _, page in reply or ()]
    return [entry for page in pages for item in page for entry in (item if isinstance(item, list) else [item])]


def text(value: str | bytes) -> str:
    """An id as text, whether the client decodes replies or not."""
    return value.decode() if isinstance(value, bytes) else value
