"""The event that an application adds. It is checked before the INSERT, which would fail the whole transaction."""

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import NoneType
from typing import Any

from dispatcher.core.errors import DispatcherError
from dispatcher.core.row import MOST_NAME_CHARS

NUL_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")

SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")

_KINDS: dict[str, tuple[type, ...]] = {
    "event_type": (str,),
    "aggregate_type": (str,),
    "aggregate_id": (str, int, uuid.UUID),
    "event_id": (uuid.UUID, str),
    "message_id": (uuid.UUID, str),
    "headers": (Mapping, NoneType),
    "next_run_at": (datetime, NoneType),
}
_NOT_YET = ": an id that the database gives is not known before the INSERT; call `session.flush()` first"


class NoTransaction(DispatcherError):
    """The connection is in no transaction: the event would be committed even if the work is rolled back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event of the outbox as its producer inserts it; `dispatcher.handlers.Event` is the same as a handler gets it.

    `payload`: anything that `json.dumps` takes, or JSON text as bytes in UTF-8.

    `event_id` is the event's identity: give your own if the same event may be added twice, and the second is refused.
    `next_run_at` in the future delays it; it must have a time zone. Neither payload nor headers are in its repr.
    """

    event_type: str
    aggregate_id: str | int | uuid.UUID
    payload: Any = field(repr=False)
    aggregate_type: str = "message"
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    next_run_at: datetime | None = None
    event_id: uuid.UUID = field(default_factory=uuid.uuid4)
    message_id: uuid.UUID = field(default_factory=uuid.uuid4)

    def __post_init__(self) -> None:
        """Raises TypeError, which names the field: its text would be published, such as 'None' for an id."""
        for name, kinds in _KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kinds) or isinstance(value, bool):
                hint = _NOT_YET if name == "aggregate_id" and value is None else ""
                wanted = " or ".join("None" if kind is NoneType else kind.__name__ for kind in kinds)
                raise TypeError(f"{name} must be {wanted}, not {type(value).__name__}{hint}")

    def parameters(self) -> dict[str, str | datetime | None]:
        """The parameters of sql/client/add_event.sql. Raises ValueError, which quotes no payload."""
        moment = self.next_run_at
        if moment is not None and moment.utcoffset() is None:
            raise ValueError("next_run_at has no time zone: give one, such as datetime.now(UTC) + timedelta(hours=1)")
        return {
            "event_id": _uuid("event_id", self.event_id),
            "message_id": _uuid("message_id", self.message_id),
            "event_type": _named("event_type", self.event_type),
            "aggregate_type": _named("aggregate_type", self.aggregate_type),
            "aggregate_id": _named("aggregate_id", self.aggregate_id),
            "payload": _json("payload", self.payload),
            "headers": None if self.headers is None else _json("headers", dict(self.headers)),
            "next_run_at": moment,
        }


def _named(name: str, given: str | int | uuid.UUID) -> str:
    # The text itself, also of a member of an Enum, of which str() makes 'Color.RED'.
    value = str.__str__(given) if isinstance(given, str) else str(given)
    if not value or "\0" in value:
        raise ValueError(f"{name} must be text that is not empty and holds no NUL")
    if not value.isascii() and value.encode(errors="replace").decode() != value:
        raise ValueError(f"{name} holds text that is not valid Unicode")
    if len(value) > MOST_NAME_CHARS:
        raise ValueError(f"{name} is longer than {MOST_NAME_CHARS} characters: such an event would be dead at once")
    return value


def _uuid(name: str, given: uuid.UUID | str) -> str:
    try:
        return str(given if isinstance(given, uuid.UUID) else uuid.UUID(given))
    except ValueError:
        raise ValueError(f"{name} is no UUID") from None


def _json(name: str, value: object) -> str:
    """The value as JSON text that jsonb accepts. Raises ValueError."""
    reason: str | None = None
    text = ""
    try:
        text = _checked(value) if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except UnicodeError:
        reason = "holds text that is not valid Unicode"
    except (TypeError, ValueError, RecursionError) as error:
        reason = f"is not JSON ({type(error).__name__}): give what json.dumps takes, or JSON text as bytes"
    if reason is None and ("\0" in text or NUL_ESCAPE.search(text)):
        reason = "holds the character NUL, which jsonb cannot store"
    if reason is not None:
        raise ValueError(f"{name} {reason}")  # outside the except: the cause's text could quote the value
    return text


def _checked(value: bytes) -> str:
    """JSON text in UTF-8, checked and otherwise unchanged. Raises ValueError."""
    text = value.decode()
    # Numbers stay text: only their shape is looked at, and Python's limits on them are not Postgres's.
    found = json.loads(text, parse_int=str, parse_float=str, parse_constant=_no_constant)
    if SURROGATE_ESCAPE.search(text):
        json.dumps(found, ensure_ascii=False).encode()  # half a character, which jsonb refuses
    return text


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
