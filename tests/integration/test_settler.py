"""Settles of several lanes run one after another, and one that takes long holds up no other."""

from collections.abc import AsyncIterator
from random import Random
from typing import Any

import anyio
import psycopg
import pytest

from dispatcher.core.events import Buried, Settled
from dispatcher.core.outcome import BatchOutcomes, FailedForGood, Sent, Waits
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.stages.claim import claim, new_claim_id
from tests.support.rows import insert_events, statuses
from tests.support.settler import make_settler
from tests.support.tap import Tap
from tests.support.waiting import becomes, caught_up, until

Db = psycopg.AsyncConnection[Any]
WAIT_FOR_A_LOCK = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@pytest.fixture
async def lanes(database_url: str) -> AsyncIterator[list[ReconnectingSession]]:
    """Two sessions that are kept open."""
    made = [ReconnectingSession(PostgresTarget(database_url, "test"), f"lane-{n}", rng=Random(n)) for n in range(2)]
    async with anyio.create_task_group() as tasks:
        for each in made:
            await tasks.start(each.keep)
        yield made
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(("wait_s", "waits"), [(60.0, True), (0.01, False)], ids=["waits", "goes on"])
async def test_a_settle_waits_for_the_one_before_but_not_for_long(
    db: Db, database_url: str, lanes: list[ReconnectingSession], tap: Tap, wait_s: float, waits: bool
) -> None:
    settler = make_settler(tap, batch_size=1, wait_s=wait_s)
    ids = await insert_events(db, 2)
    claims = [await claim(await lane.get(), claim_id=new_claim_id(), dispatcher=None, limit=1) for lane in lanes]
    assert [[row.id for row in batch.rows] for batch in claims] == [[row_id] for row_id in ids]
    ended = list[int]()

    async def settle(number: int) -> None:
        outcomes = BatchOutcomes.of([(ids[number], Sent(f"1-{number}"))], None)
        await settler.settle(lanes[number], claims[number].claim_id, outcomes)
        ended.append(number)

    async def waiting() -> int:
        [(number,)] = await (await db.execute(WAIT_FOR_A_LOCK)).fetchall()
        return int(number)

    async with (
        await psycopg.AsyncConnection.connect(database_url) as person,
        anyio.create_task_group() as tasks,
    ):
        await person.execute("SELECT FROM messaging.message_outbox WHERE id = %s FOR UPDATE", [ids[0]])
        tasks.start_soon(settle, 0)
        await becomes(waiting, 1)
        tasks.start_soon(settle, 1)
        if waits:
            await caught_up()
            await (await lanes[1].get()).fetch("SELECT 1")  # behind the settle, had it begun
            assert await statuses(db) == {"picked": 2}
        else:
            await becomes(lambda: ended, [1], timeout_s=20.0)  # the other one is given up after 30 s
        await person.rollback()
        await until(lambda: len(ended) == 2, "both are settled")
    assert ended == ([0, 1] if waits else [1, 0])
    assert await statuses(db) == {"sent": 2}


async def test_a_row_that_waits_is_counted_by_the_settle_that_wrote_it(
    db: Db, lanes: list[ReconnectingSession], tap: Tap
) -> None:
    """When its answer was lost the next try finds nothing to write. A count below 0 would end the process."""
    settler = make_settler(tap)
    [row_id] = await insert_events(db, 1)
    claim_id = new_claim_id()
    await claim(await lanes[0].get(), claim_id=claim_id, dispatcher=None, limit=1)
    outcomes = BatchOutcomes.of([(row_id, Waits(60.0, "no credit"))], None)
    for _ in range(2):
        await settler.settle(lanes[0], claim_id, outcomes, tried_together=True)
    found = [(each.retried, each.waiting) for each in tap.all(Settled)]
    assert found == [(0, 1), (0, 0)]


async def test_a_dead_row_is_told_once_it_is_written(db: Db, lanes: list[ReconnectingSession], tap: Tap) -> None:
    """Not when a trigger undoes it: it is tried again and again, and would be told as often."""
    settler = make_settler(tap)
    [row_id] = await insert_events(db, 1)
    claim_id = new_claim_id()
    await claim(await lanes[0].get(), claim_id=claim_id, dispatcher=None, limit=1)
    await db.execute("""
        CREATE FUNCTION public.undo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
        CREATE TRIGGER undo BEFORE UPDATE ON messaging.message_outbox FOR EACH ROW WHEN (NEW.status = 'dead')
            EXECUTE FUNCTION public.undo()
    """)
    outcomes = BatchOutcomes.of([(row_id, FailedForGood("no such room"))], None)
    await settler.settle(lanes[0], claim_id, outcomes)
    assert tap.all(Buried) == []
    await db.execute("DROP TRIGGER undo ON messaging.message_outbox")
    await settler.settle(lanes[0], claim_id, outcomes)
    assert tap.all(Buried) == [Buried([(row_id, "no such room")])]
