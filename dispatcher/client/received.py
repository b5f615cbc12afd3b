"""An event as a consumer receives it."""

import uuid
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dispatcher.core.parse import parse


class Malformed(Exception):
    """An entry that the dispatcher did not write: which field is missing or wrong, without its value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One event. `event_id` is the same at each delivery, `entry_id` is not. Its repr has no payload, no headers.

    The names and types are those of dispatcher.client.Event and of the Event of a handler.
    """

    event_id: uuid.UUID
    message_id: uuid.UUID
    event_type: str
    aggregate_type: str
    aggregate_id: str
    occurred_at: datetime
    text: str = field(repr=False)  # the payload: JSON text, as Postgres prints it
    headers: Mapping[str, Any] | None = field(repr=False)
    entry_id: str  # unique in its key
    deliveries: int  # 1: this group sees the entry for the first time
    stream: str = ""  # the key in Redis: with shards that of its shard
    after_dead: uuid.UUID | None = None  # DISPATCH_ORDER=aggregate: the dead event of its aggregate before it
    fence: int = 0  # with ordered=True: rises each time that another consumer begins to read the shard

    @property
    def payload(self) -> str:
        """The old name of `text`. Goes with the next release."""
        warnings.warn("Received.payload is Received.text now; json() parses it", DeprecationWarning, stacklevel=2)
        return self.text

    def json(self, **options: Any) -> Any:
        """The payload, parsed: dicts, lists, text, numbers. `options`: of json.loads, such as parse_float=Decimal.

        Raises ValueError (CannotParse), and then the entry is put away at once: the next delivery would fail too.
        """
        return parse(self.text, "the payload", **options)


def receive(entry_id: str, fields: Mapping[Any, Any], deliveries: int, stream: str = "", fence: int = 0) -> Received:
    """Read an entry, whose names and values are text or bytes. Raises Malformed."""
    name = ""
    try:
        texts = {_text(key): _text(value) for key, value in fields.items()}
        for name in ("event_id", "message_id"):
            uuid.UUID(texts[name])
        name = "after_dead"
        after_dead = uuid.UUID(texts[name]) if name in texts else None
        name = "occurred_at"
        occurred_at = datetime.fromisoformat(texts[name])
        for name in ("event_type", "aggregate_type", "aggregate_id", "payload"):
            texts[name]
        name = "headers"
        headers = parse(texts[name], "headers") if name in texts else None
        headers = headers if isinstance(headers, dict) else None  # PHP writes [] where there are none
    except KeyError:
        raise Malformed(f"the entry has no field {name}") from None
    except ValueError:
        raise Malformed(f"the entry's field {name} cannot be read" if name else "the entry is not text") from None
    return Received(
        event_id=uuid.UUID(texts["event_id"]),
        message_id=uuid.UUID(texts["message_id"]),
        event_type=texts["event_type"],
        aggregate_type=texts["aggregate_type"],
        aggregate_id=texts["aggregate_id"],
        occurred_at=occurred_at,
        text=texts["payload"],
        headers=headers,
        entry_id=entry_id,
        deliveries=deliveries,
        stream=stream,
        after_dead=after_dead,
        fence=fence,
    )


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
