"""A trigger that writes down every change of status, and what its record shows about claims.

`audit.next_of` is the number of an event within its aggregate: it locks the aggregate until the commit, so that its
writers are serialised.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

INSTALL = """
CREATE SCHEMA audit;
CREATE TABLE audit.change (
    id bigint GENERATED ALWAYS AS IDENTITY, at timestamptz NOT NULL DEFAULT clock_timestamp(),
    row_id bigint, before text, after text, claim_before uuid, claim_after uuid, by text
);
CREATE FUNCTION audit.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO audit.change (row_id, before, after, claim_before, claim_after, by)
    VALUES (NEW.id, OLD.status, NEW.status, OLD.claim_id, NEW.claim_id, current_setting('application_name'));
    RETURN NULL;
END $$;
CREATE TRIGGER audit_status AFTER UPDATE ON messaging.message_outbox FOR EACH ROW
    WHEN (OLD.status IS DISTINCT FROM NEW.status OR OLD.claim_id IS DISTINCT FROM NEW.claim_id)
    EXECUTE FUNCTION audit.note();
CREATE TABLE audit.sequence (aggregate text PRIMARY KEY, n bigint NOT NULL);
CREATE FUNCTION audit.next_of(text) RETURNS bigint LANGUAGE sql AS $$
INSERT INTO audit.sequence AS s VALUES ($1, 1) ON CONFLICT (aggregate) DO UPDATE SET n = s.n + 1 RETURNING s.n
$$;
"""


@dataclass(frozen=True, slots=True)
class Claims:
    """What the record shows. Seconds."""

    longest_held_s: float  # beyond `healed`, or from the claim when that was later
    stolen: list[str]  # taken from a living dispatcher within its lease
    broken: list[str]  # changes no protocol allows, such as a claim of a row that is claimed


async def read_claims(
    db: psycopg.AsyncConnection[Any], *, lease_s: float, healed: float, gone: Mapping[str, float]
) -> Claims:
    """Walk the record row by row. `gone`: when a dispatcher was killed or frozen, by its token; wall clock."""
    cursor = await db.execute(
        "SELECT row_id, before, after, claim_before, claim_after, by, at FROM audit.change ORDER BY id"
    )
    holder: dict[int, tuple[str, datetime]] = {}
    longest, stolen, broken = 0.0, [], []
    for row_id, before, after, claim_before, claim_after, by, at in await cursor.fetchall():
        if before == "picked":
            owner, since = holder.pop(row_id, (_name(by), at))
            longest = max(longest, at.timestamp() - max(since.timestamp(), healed))
            held_s = (at - since).total_seconds()
            if _name(by) != owner and held_s < lease_s and gone.get(owner, float("inf")) > at.timestamp():
                stolen.append(f"row {row_id} was taken from {owner} after {held_s:.2f} s by {by}")
            if after in ("sent", "dead") and claim_after != claim_before:
                broken.append(f"row {row_id} was settled under another claim, by {by} at {at}")
            if after == "picked" and " lane-" in by:  # a successor adopts on its upkeep session; a lane never may
                broken.append(f"row {row_id} was claimed while it was claimed, by {by} at {at}")
        if after == "picked":
            holder[row_id] = (_name(by), at)
    return Claims(longest, stolen, broken)


def _name(application: str) -> str:
    """`dispatcher lane-0 4f5a host-123-4f5a`, cut to 63 bytes, belongs to `4f5a`."""
    words = application.split(" ")
    return words[2] if len(words) > 2 else application
