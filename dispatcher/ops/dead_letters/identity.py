"""How a person names a dead event: by the number of its row, which outlives the row, or by its event_id."""

import re
from uuid import UUID

EventRef = int | UUID

LARGEST = 2**63 - 1  # of bigint
WANTED = f"the number of a row (1 to {LARGEST}) or an event_id (a UUID)"

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def parse(text: str) -> EventRef:
    """Raises ValueError, whose text completes "it must be ..."."""
    if re.fullmatch(r"[0-9]{1,19}", text) and 1 <= int(text) <= LARGEST:
        return int(text)
    if _UUID.fullmatch(text):
        return UUID(text)
    raise ValueError(WANTED)
