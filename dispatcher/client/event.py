"""The event that an application adds. It is checked before the INSERT, which would fail the whole transaction."""

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dispatcher.core.errors import DispatcherError

NUL_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")

SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


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

    def parameters(self) -> dict[str, str | datetime | None]:
        """The parameters of sql/client/add_event.sql. Raises ValueError, which quotes no payload."""
        moment = self.next_run_at
        if moment is not None and moment.utcoffset() is None:
            raise ValueError("next_run_at has no time zone: give one, such as datetime.now(UTC) + timedelta(hours=1)")
        return {
            "event_id": str(self.event_id),
            "message_id": str(self.message_id),
            "event_type": _named("event_type", self.event_type),
            "aggregate_type": _named("aggregate_type", self.aggregate_type),
            "aggregate_id": _named("aggregate_id", str(self.aggregate_id)),
            "payload": _json("payload", self.payload),
            "headers": None if self.headers is None else _json("headers", dict(self.headers)),
            "next_run_at": moment,
        }


def _named(name: str, value: str) -> str:
    if not value or "\0" in value:
        raise ValueError(f"{name} must be text that is not empty and holds no NUL")
    return value


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
