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
        "raised_at": [None] * len(ids),
        "claim_id": claim_id,
        "now": None,
    }
    done = await (await db.execute(load("settle_dead").encode(), params)).fetchall()
    assert len(done) == len(ids)


async def prune(db: psycopg.AsyncConnection[Any]) -> None:
    """Delete every settled row, whatever its age; copies of dead ones stay."""
    await db.execute("CALL messaging.prune_message_outbox('0')")
