"""What a handler may know of an event beside its payload."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from dispatcher.core.row import ClaimedRow


@dataclass(frozen=True, slots=True)
class Event:
    """One event, without its payload, which is the handler's first argument. `repr` shows no headers."""

    id: int
    event_id: str  # the same at every try: what to remember in order to do a thing once
    message_id: str
    event_type: str
    aggregate_type: str
    aggregate_id: str
    occurred_at: datetime  # UTC
    attempts: int  # failures so far
    headers: dict[str, Any] | None = field(repr=False)


def event_of(row: ClaimedRow) -> Event:
    """The event of a row."""
    headers = json.loads(row.headers) if row.headers is not None else None
    return Event(
        row.id,
        row.event_id,
        row.message_id,
        row.event_type,
        row.aggregate_type,
        row.aggregate_id,
        row.occurred_at.replace(tzinfo=UTC),
        row.attempts,
        headers,
    )
