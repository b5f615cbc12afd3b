"""What a consumer can do next, and how answers and errors are read."""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Literal

import redis

from dispatcher.client.group import Group
from dispatcher.client.received import Received

LONGEST_PAUSE_S = 5.0
# Answers that speak of the server as it is just now, and for which redis-py has no class of their own.
PASSING = ("UNBLOCKED", "NOREPLICAS", "MISCONF")


class NotNow(redis.ConnectionError):
    """The server refuses, and will not later. `str()` is the answer's code."""


@dataclass(frozen=True, slots=True)
class Call:
    """Call this method of the Redis client."""

    method: str
    arguments: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunHandler:
    """Ask the store, run the handler, or tell the store."""

    what: Literal["has", "handle", "add"]
    event: Received


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait, or until a stop."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry that is ours for now."""

    id: str
    fields: dict[Any, Any]
    deliveries: int


Steps = Generator[Call | RunHandler | Wait, Any, Any]


def call(group: Group, method: str, *arguments: Any, **options: Any) -> Call:
    """A call about the group."""
    return Call(method, (group.stream, group.group, *arguments), options)


def of_call(error: Exception) -> Exception:
    """What a call raised, as the steps are told of it."""
    code = str(error).partition(" ")[0]
    return NotNow(code) if isinstance(error, redis.ResponseError) and code in PASSING else error


def pause_s(failures: int) -> float:
    """0.1 s, doubling."""
    return min(LONGEST_PAUSE_S, 0.1 * 2.0 ** min(failures, 10))


def entries_of(reply: Any) -> list[tuple[Any, dict[Any, Any]]]:
    """The entries of an XREADGROUP of one stream, in whichever shape redis-py gives it (RESP2, RESP3, unified)."""
    pages = reply.values() if isinstance(reply, dict) else [page for _, page in reply or ()]
    return [entry for page in pages for item in page for entry in (item if isinstance(item, list) else [item])]


def text(value: str | bytes) -> str:
    """An id, whether the client decodes or not."""
    return value.decode() if isinstance(value, bytes) else value


def where(error: Exception) -> str:
    """The file and line that raised it: what a log may say without the message, which could quote the payload."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return f" at {last.tb_frame.f_code.co_filename.rpartition('/')[2]}:{last.tb_lineno}" if last else ""
