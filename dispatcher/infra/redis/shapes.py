"""The shapes of replies: one that its command never gives is a refusal, or whoever reads it would end the process."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from dispatcher.core.decide import Refused

# What redis-py, or who reads what it gives, raises for a reply of another shape.
ODD_REPLY = (TypeError, ValueError, LookupError, AttributeError)

_is_id = re.compile(rb"\d{1,20}-\d{1,20}").fullmatch


def in_shape(commands: Sequence[tuple[str, ...] | bytes], replies: Sequence[Any]) -> list[Any]:
    """The replies, and in place of each that its command never gives `Refused`."""
    return [_checked(command, reply) for command, reply in zip(commands, replies, strict=True)]


def _checked(command: tuple[str, ...] | bytes, reply: Any) -> Any:
    if isinstance(command, bytes) or not (reply is None or isinstance(reply, bytes | int | list)):
        return reply  # packed already: of an entry, see publish.py; NoReply and the like
    check = _CHECKS.get(" ".join(command[:2])) or _CHECKS.get(command[0])
    if check is None or check(reply):
        return reply
    return Refused(f"UNEXPECTED reply of type {type(reply).__name__} to {command[0]}")


def _is_text(reply: Any) -> bool:
    return isinstance(reply, bytes)


def _is_number(reply: Any) -> bool:
    return isinstance(reply, int)


def _is_entry_id(reply: Any) -> bool:
    return isinstance(reply, bytes) and _is_id(reply) is not None


def _fields(reply: Any) -> dict[bytes, Any] | None:
    if not isinstance(reply, list) or len(reply) % 2 or not all(isinstance(name, bytes) for name in reply[::2]):
        return None
    return dict(zip(reply[::2], reply[1::2], strict=True))


def _may_lack(fields: dict[bytes, Any], is_so: Callable[[Any], bool], *names: bytes) -> bool:
    return all(is_so(fields[name]) for name in names if fields.get(name) is not None)


def _is_stream(reply: Any) -> bool:
    fields = _fields(reply)
    return (
        fields is not None
        and _is_number(fields.get(b"length"))
        and _is_entry_id(fields.get(b"last-generated-id"))
        and _may_lack(fields, _is_number, b"entries-added")
        and _may_lack(fields, _is_entry_id, b"max-deleted-entry-id")
        and _may_lack(fields, lambda each: _is_page([each]), b"first-entry", b"last-entry")
    )


def _are_groups(reply: Any) -> bool:
    return isinstance(reply, list) and all(_is_group(_fields(each)) for each in reply)


def _is_group(fields: dict[bytes, Any] | None) -> bool:
    return (
        fields is not None
        and _is_text(fields.get(b"name"))
        and _is_entry_id(fields.get(b"last-delivered-id"))
        and all(_is_number(fields.get(name)) for name in (b"pending", b"consumers"))
        and _may_lack(fields, _is_number, b"lag", b"entries-read")
    )


def _is_page(reply: Any) -> bool:
    return isinstance(reply, list) and all(
        isinstance(each, list)
        and len(each) == 2
        and _is_entry_id(each[0])
        and isinstance(each[1], list)
        and len(each[1]) % 2 == 0
        and all(isinstance(text, bytes) for text in each[1])
        for each in reply
    )


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "INFO": _is_text,
    "CLIENT LIST": _is_text,
    "XINFO STREAM": _is_stream,
    "XINFO GROUPS": _are_groups,
    "XRANGE": _is_page,
    "XREVRANGE": _is_page,
    "XLEN": _is_number,
}
