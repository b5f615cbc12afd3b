"""Whatever plan Postgres takes, a claim takes no more than its limit: a nested loop once ran the locking part again."""

from collections.abc import AsyncIterator

import pytest

from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.stages.claim import claim, new_claim_id
from tests.support.rows import insert_events, statuses

pytestmark = pytest.mark.both_versions

PLANS = {
    "nested loop": ("hashjoin", "mergejoin", "material", "sort", "hashagg", "memoize"),
    "nested loop, no index": ("hashjoin", "mergejoin", "material", "indexscan", "indexonlyscan", "bitmapscan"),
    "merge": ("hashjoin", "nestloop", "tidscan"),
    "hash": ("mergejoin", "nestloop", "tidscan", "indexscan"),
    "no tid scan": ("tidscan", "bitmapscan"),
    "sequential": ("indexscan", "indexonlyscan", "bitmapscan"),
}


@pytest.fixture
async def session(database_url: str) -> AsyncIterator[Session]:
    session = await connect(PostgresTarget(database_url, "test"), "lane")
    yield session
    await session.close()


@pytest.mark.promise("one-owner")
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_no_plan_takes_more_than_the_limit(session, db, plan, mode):
    await insert_events(db, 200)
    await db.execute("ANALYZE messaging.message_outbox")
    await session.fetch("SET enable_seqscan = on")
    await session.fetch(f"SET plan_cache_mode = {mode}")
    for method in PLANS[plan]:
        await session.fetch(f"SET enable_{method} = off")
    for batch_number in range(1, 4):
        batch = await claim(session, claim_id=new_claim_id(), dispatcher=1, limit=10)
        assert len(batch.rows) == 10
        assert (await statuses(db))["picked"] == 10 * batch_number
