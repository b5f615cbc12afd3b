"""The event that a handler gets as its second argument."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from dispatcher.core.parse import parse
from dispatcher.core.row import ClaimedRow


@dataclass(frozen=True, slots=True)
class Event:
    """An event of the outbox as a handler gets it; `dispatcher.client.Event` is the same as its producer inserts it.

    Its payload is the handler's first argument, with numbers as Python's int and float. Where that is not exact enough,
    `json(parse_float=Decimal)` is, or `text`. Neither these nor headers are in its repr.
    """

    id: int
    event_id: UUID  # the same at every attempt: remember it to do a thing once
    message_id: UUID
    event_type: str
    aggregate_type: str
    aggregate_id: str
    occurred_at: datetime  # UTC
    attempts: int  # that failed so far
    headers: Mapping[str, Any] | None = field(repr=False)
    text: str = field(default="", repr=False)  # the payload: JSON text, as Postgres prints it

    def json(self, **options: Any) -> Any:
        """The parsed payload. `options`: of json.loads, as parse_float=Decimal. Raises ValueError (CannotParse)."""
        return parse(self.text, "the payload", **options)


def event_of(row: ClaimedRow) -> Event:
    """The event in a claimed row."""
    headers = parse(row.headers, "the text of the headers") if row.headers is not None else None
    headers = headers if isinstance(headers, dict) else None  # PHP writes [] where there are none
    return Event(
        row.id,
        UUID(row.event_id),
        UUID(row.message_id),
        row.event_type,
        row.aggregate_type,
        row.aggregate_id,
        row.occurred_at.replace(tzinfo=UTC),
        row.attempts,
        headers,
        row.payload,
    )
