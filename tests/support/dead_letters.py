"""Dead events, made and pruned as the product makes and prunes them."""

import uuid
from typing import Any

import psycopg

from dispatcher.infra.sqlfiles import load


async def bury(db: psycopg.AsyncConnection[Any], ids: list[int], error: str = "ERR refused") -> None:
    """Claim these rows and settle them as dead, with the dispatcher's own statement."""
    claim_id = str(uuid.uuid4())
    await db.execute(
        "UPDATE messaging.message_outbox SET status = 'picked', picked_at = clock_timestamp(), claim_id = %s "
        "WHERE id = ANY (%s)",
        [claim_id, ids],
    )
    params = {
        "ids": ids,
        "errors": [error] * len(ids),
        "places": [None] * len(ids),
        "claim_id": claim_id,
        "now": None,
    }
    done = await (await db.execute(load("settle_dead").encode(), params)).fetchall()
    assert len(done) == len(ids)


async def prune(db: psycopg.AsyncConnection[Any]) -> None:
    """Delete every settled row, whatever its age; copies of dead ones stay."""
    await db.execute("CALL messaging.prune_message_outbox('0')")


async def insert_copies(db: psycopg.AsyncConnection[Any], outbox_ids: list[int]) -> None:
    """Open copies that belong to rows of these ids, whatever becomes of the rows."""
    await db.execute(
        "INSERT INTO messaging.message_dlq "
        "(outbox_id, event_id, message_id, event_type, aggregate_type, aggregate_id, payload, attempts, occurred_at) "
        "SELECT i, gen_random_uuid(), gen_random_uuid(), 'order.created', '', 'a', '{}', 1, now() "
        "FROM unnest(%s::bigint[]) AS i",
        [outbox_ids],
    )
