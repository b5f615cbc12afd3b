"""How much of its tables a statement reads."""

import json
from collections.abc import Mapping
from typing import Any

import psycopg


async def blocks_read(
    db: psycopg.AsyncConnection[Any], statement: str, parameters: Mapping[str, object] | None = None
) -> int:
    """Blocks of tables and indexes that one run of it reads, those that functions in it read included. Undone."""
    async with db.transaction(force_rollback=True):
        explain = await db.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}".encode(), parameters)
        [(plans,)] = await explain.fetchall()
    plan = (json.loads(plans) if isinstance(plans, str) else plans)[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


async def blocks_of(db: psycopg.AsyncConnection[Any], table: str) -> int:
    """Blocks of the table itself, as it is now."""
    size = await db.execute(
        "SELECT pg_relation_size(%s) / current_setting('block_size')::integer", [f"messaging.{table}"]
    )
    [(blocks,)] = await size.fetchall()
    return int(blocks)
