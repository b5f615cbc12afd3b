"""The event that an application adds. It is checked before the INSERT, which would fail the whole transaction."""

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import NoneType
from typing import Any

from dispatcher.client.encode import Encode, encode
from dispatcher.core.errors import DispatcherError
from dispatcher.core.row import MOST_NAME_CHARS
from dispatcher.infra.traces import with_current_span

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

    `payload`: anything that `json.dumps` takes; also dataclasses, pydantic models, msgspec structs, datetimes, UUIDs,
    and Decimals, which keep all their digits; or JSON text as bytes in UTF-8.

    `encode`: a function of yours that makes JSON text of the payload, such as `orjson.dumps`.

    Its names, ids and time are checked when it is made, payload and headers when it is added, before the INSERT: what
    Postgres would refuse costs no transaction.

    `event_id` is the event's identity: give your own if the same event may be added twice, and the second is refused.
    `next_run_at` in the future delays it; it must have a time zone. Neither payload nor headers are in its repr.
    """

    event_type: str
    aggregate_id: str | int | uuid.UUID
    payload: Any = field(repr=False)
    aggregate_type: str = "message"
    headers: Mapping[str, Any] | None = field(default=None, repr=False)
    next_run_at: datetime | None = None
    event_id: uuid.UUID = field(default_factory=uuid.uuid4)
    message_id: uuid.UUID = field(default_factory=uuid.uuid4)
    encode: Encode | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises TypeError, which names the field: its text would be published, such as 'None' for an id.

        Raises ValueError for a value that the outbox does not take.
        """
        for name, kinds in _KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kinds) or isinstance(value, bool):
                hint = _NOT_YET if name == "aggregate_id" and value is None else ""
                wanted = " or ".join("None" if kind is NoneType else kind.__name__ for kind in kinds)
                raise TypeError(f"{name} must be {wanted}, not {type(value).__name__}{hint}")
        for name in ("event_type", "aggregate_type", "aggregate_id"):
            _check_name(name, _text(getattr(self, name)))
        for name in ("event_id", "message_id"):
            uuid_of(name, getattr(self, name))
        if self.next_run_at is not None and self.next_run_at.utcoffset() is None:
            raise ValueError("next_run_at has no time zone: give one, such as datetime.now(UTC) + timedelta(hours=1)")

    def parameters(self) -> dict[str, str | datetime | None]:
        """The parameters of sql/client/add_event.sql. Raises ValueError, which quotes no payload."""
        headers = with_current_span(self.headers)
        return {
            "event_id": uuid_of("event_id", self.event_id),
            "message_id": uuid_of("message_id", self.message_id),
            "event_type": _text(self.event_type),
            "aggregate_type": _text(self.aggregate_type),
            "aggregate_id": _text(self.aggregate_id),
            "payload": encode("payload", self.payload, self.encode),
            "headers": None if headers is None else encode("headers", dict(headers)),
            "next_run_at": self.next_run_at,
        }


def _text(given: str | int | uuid.UUID) -> str:
    # The text itself, also of a member of an Enum, of which str() makes 'Color.RED'.
    return str.__str__(given) if isinstance(given, str) else str(given)


def _check_name(name: str, value: str) -> None:
    if not value or "\0" in value:
        raise ValueError(f"{name} must be text that is not empty and holds no NUL")
    if not value.isascii() and value.encode(errors="replace").decode() != value:
        raise ValueError(f"{name} holds text that is not valid Unicode")
    if len(value) > MOST_NAME_CHARS:
        raise ValueError(f"{name} is longer than {MOST_NAME_CHARS} characters: such an event would be dead at once")


def uuid_of(name: str, given: uuid.UUID | str) -> str:
    """The text of a UUID. Raises TypeError or ValueError, before a server would refuse it."""
    if not isinstance(given, uuid.UUID | str):
        raise TypeError(f"{name} must be a UUID, not {type(given).__name__}")
    try:
        return str(given if isinstance(given, uuid.UUID) else uuid.UUID(given))
    except ValueError:
        pass
    raise ValueError(f"{name} must be a UUID, and this text is none")  # outside the except: its cause quotes the text


def handled(consumer: str, event_id: uuid.UUID) -> dict[str, str]:
    """The parameters of sql/client/first_time.sql. Raises TypeError or ValueError."""
    if not isinstance(consumer, str):
        raise TypeError(f"consumer must be the name of a consumer, not {type(consumer).__name__}")
    if "\0" in consumer:
        raise ValueError("consumer must hold no NUL")
    return {"consumer": consumer, "event_id": uuid_of("event_id", event_id)}


MOST_AT_ONCE = 32 * 1024 * 1024  # characters of one statement: a jsonb array holds at most 256 MiB


def arrays_of(events: Iterable[Event]) -> list[str]:
    """What `events` is in sql/client/add_events.sql: one array, unless they are very many. Raises ValueError.

    A payload goes into it as it is: numbers keep their digits.
    """
    arrays: list[str] = []
    texts: list[str] = []
    size = 0
    for event in events:
        found = event.parameters()
        moment = found.pop("next_run_at")
        parts = {name: text if name in ("payload", "headers") else json.dumps(text) for name, text in found.items()}
        if isinstance(moment, datetime):
            parts["next_run_at"] = json.dumps(moment.isoformat())
        texts.append("{" + ",".join(f'"{name}":{part}' for name, part in parts.items() if part is not None) + "}")
        size += len(texts[-1])
        if size > MOST_AT_ONCE:
            arrays.append(f"[{','.join(texts)}]")
            texts, size = [], 0
    if texts:
        arrays.append(f"[{','.join(texts)}]")
    return arrays


def one_event(event: Event, in_order: bool) -> tuple[str, dict[str, Any]]:
    """The file of sql/client that adds it, and its parameters. Raises ValueError, or TypeError for what is no Event."""
    _require_event(event)
    if not in_order:
        return "add_event", event.parameters()
    name, [parameters] = many_events([event], in_order)
    return name, parameters


def _require_event(given: object) -> None:
    if not isinstance(given, Event):
        kind = type(given)
        raise TypeError(f"a dispatcher.client.Event is needed, not a {kind.__module__}.{kind.__qualname__}")


def many_events(events: Sequence[Event], in_order: bool) -> tuple[str, list[dict[str, Any]]]:
    """The file of sql/client that adds them, and the parameters of each time that it is run. Raises as one_event.

    In order the first run locks all aggregates: taken run by run, two callers could wait for each other.
    """
    for each in events:
        _require_event(each)
    arrays = arrays_of(events)
    if not in_order:
        return "add_events", [{"events": array} for array in arrays]
    names = ("aggregate_type", "aggregate_id")
    aggregates = {tuple(_text(getattr(each, name)) for name in names) for each in events}
    locks = [json.dumps(sorted(aggregates)), *["[]"] * len(arrays)]
    return "add_events_in_order", [{"events": array, "locks": lock} for array, lock in zip(arrays, locks, strict=False)]
