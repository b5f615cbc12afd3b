"""Order with a lot: ten thousand held aggregates, and what they cost those that are not held."""

from typing import Any

import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.infra.postgres.session import Session
from dispatcher.relay.order.watch import AT_ONCE
from tests.integration.test_order import ORDER, add, order_of, sent
from tests.support.rows import read_stream
from tests.support.running import StartDispatcher
from tests.support.waiting import becomes

Db = psycopg.AsyncConnection[Any]
HELD = 2 * AT_ONCE  # a look at all of them ends with a statement that is full
FREE = 1_000
HEADS = (
    "INSERT INTO messaging.message_outbox"
    " (event_type, aggregate_id, payload, status, attempts, next_run_at, last_error)"
    " SELECT 'order.created', 'held' || i, '{\"n\": 1}', 'retry', 1, now() + interval '1 hour', 'it failed'"
    " FROM generate_series(1, %s) AS i"
)
LATER = (
    "INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload)"
    " SELECT 'order.created', 'held' || i, '{\"n\": 2}' FROM generate_series(1, %s) AS i"
)


@pytest.mark.timeout(300)
async def test_ten_thousand_held_aggregates_hold_up_nobody_else(
    dispatcher: StartDispatcher, db: Db, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first event of each failed and waits, the second waits behind it. Events of others go out meanwhile, and the
    statements that take are counted."""
    statements: list[str] = []
    execute = Session._execute

    async def counted(self: Session, cursor: Any, sql: str, params: Any, *, prepare: bool) -> Any:
        statements.append(sql.partition(":")[0])
        return await execute(self, cursor, sql, params, prepare=prepare)

    monkeypatch.setattr(Session, "_execute", counted)
    await db.execute(HEADS, (HELD,))
    await db.execute(LATER, (HELD,))
    async with dispatcher(**ORDER):
        await add(db, "free", 1)
        await becomes(lambda: sent(db), 1)
        statements.clear()
        await db.execute(
            "INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload)"
            " SELECT 'order.created', 'free' || (i %% 50), jsonb_build_object('n', i) FROM generate_series(1, %s) AS i",
            (FREE,),
        )
        await becomes(lambda: sent(db), 1 + FREE)
        looks = statements.count("-- peek")
        claims = statements.count("-- claim_chosen")
        await db.execute(
            "UPDATE messaging.message_outbox SET next_run_at = '1970-01-01Z'"
            " WHERE aggregate_id = 'held7' AND attempts = 1"
        )
        await becomes(lambda: sent(db), 1 + FREE + 2)
    assert len(await read_stream(redis)) == 1 + FREE + 2
    assert await order_of(redis, "held7") == [1, 2]
    # Of 11,000 rows a look of at most 20,000 finds all; what is held is not looked at row by row.
    assert (looks, claims) <= (60, 30), statements
