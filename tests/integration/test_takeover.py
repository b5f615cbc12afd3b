"""Claims older than the lease come back unharmed, younger ones stay, and the frozen owner's settle changes nothing."""

from collections.abc import AsyncIterator, Callable, Collection
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import anyio
import pytest

from dispatcher.core.events import TakenOver
from dispatcher.core.incarnation import RedisIncarnation
from dispatcher.core.outcome import BatchOutcomes, Dead, Retry, Sent
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.redis.connection import RedisConnection, RedisTarget
from dispatcher.stages.claim import claim, new_claim_id
from dispatcher.stages.settle import Settlement, settle
from dispatcher.upkeep.takeover import Takeover
from tests.support.rows import STREAM, insert_events, read_table, statuses
from tests.support.tap import Tap

NOW = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)
LEASE_S = 30.0


@pytest.fixture
async def session(database_url: str) -> AsyncIterator[Session]:
    session = await connect(PostgresTarget(database_url, "test"), "upkeep")
    yield session
    await session.close()


def held(for_s: float, **columns: object) -> dict[str, Any]:
    """The columns of a row that was claimed so many seconds ago."""
    return {
        "status": "picked",
        "picked_at": NOW - timedelta(seconds=for_s),
        "picked_by": 7,
        "claim_id": new_claim_id(),
        "stream_id": "5-0",
        "next_run_at": NOW - timedelta(seconds=60),
        **columns,
    }


@pytest.fixture
async def redis_connection(redis_url: str) -> AsyncIterator[RedisConnection]:
    redis_connection = RedisConnection(
        RedisTarget.parse(redis_url), name="h-1-aaaa", stream=STREAM, connect_timeout_s=30.0, on_lost=lambda why: None
    )
    await redis_connection.connect()
    redis_connection.incarnation = RedisIncarnation(STREAM)  # as the gate does
    yield redis_connection
    redis_connection.close()


@pytest.fixture
def make(redis_connection: RedisConnection, tap: Tap) -> Callable[..., Takeover]:
    """A takeover for a lease of so many seconds, by dispatcher 99."""

    def takeover(lease_s: float, in_flight: Collection[str] = (), **pace: Any) -> Takeover:
        return Takeover(
            redis_connection,
            stream=STREAM,
            lease_s=lease_s,
            deadline_s=30.0,
            dispatcher_id=lambda: 99,
            claims_in_flight=lambda: in_flight,
            rows_released=lambda: None,
            observe=tap,
            **pace,
        )

    return takeover


SMALL = 10  # rows of a window


@pytest.mark.promise("frozen")
async def test_an_overdue_claim_comes_back_and_costs_nothing(session, db, tap, make):
    fresh, tried = await insert_events(db, **held(31)) + await insert_events(db, **held(31, attempts=4))
    assert await make(LEASE_S).take_overdue(session, now=NOW) == 2
    assert (await tap.next(TakenOver)).rows == 2
    rows = await read_table(db)
    assert [(row["id"], row["status"], row["attempts"]) for row in rows] == [(fresh, "pending", 0), (tried, "retry", 4)]
    for row in rows:
        assert [row[column] for column in ("picked_at", "picked_by", "claim_id")] == [None] * 3
        assert row["next_run_at"] == NOW - timedelta(seconds=60)
    assert len((await claim(session, claim_id=new_claim_id(), dispatcher=1, limit=9)).rows) == 2


async def test_a_claim_within_its_lease_stays(session, db, tap, make):
    await insert_events(db, **held(30))
    await insert_events(db, **held(0))
    await insert_events(db, **held(-5))
    before = await read_table(db)
    assert await make(LEASE_S).take_overdue(session, now=NOW) == 0
    assert await read_table(db) == before
    assert tap.all(TakenOver) == []


async def test_the_lease_is_measured_by_the_servers_clock(session, db, tap, make):
    await insert_events(db, 3)
    await claim(session, claim_id=new_claim_id(), dispatcher=7, limit=9)
    assert await make(LEASE_S).take_overdue(session) == 0
    assert await make(0).take_overdue(session) == 3


@pytest.mark.parametrize("status", ["pending", "retry", "sent", "dead"])
async def test_it_looks_at_nothing_but_claims(session, db, tap, status, make):
    await insert_events(db, 3, **held(3600, status=status))
    assert await make(LEASE_S).take_overdue(session, now=NOW) == 0
    assert await statuses(db) == {status: 3}


@pytest.mark.parametrize("rows", [35, 30])
async def test_it_gets_through_more_rows_than_one_window(session, db, tap, rows, make):
    for _ in range(rows):
        await insert_events(db, **held(31))
    walk = make(LEASE_S, window=SMALL)
    freed = [await walk.take_overdue(session, now=NOW) for _ in range(4)]
    assert sum(freed) == rows
    await db.execute("UPDATE messaging.message_outbox SET status = 'picked', picked_at = '2025-06-01' WHERE id = 1")
    assert await walk.take_overdue(session, now=NOW) == 1  # from the start again


async def test_rows_that_wait_do_not_hide_what_is_behind_them(session, db, tap, make):
    await insert_events(db, 25, next_run_at=NOW - timedelta(hours=1))
    await insert_events(db, 2, **held(31))
    walk = make(LEASE_S, window=SMALL)
    assert [await walk.take_overdue(session, now=NOW) for _ in range(3)] == [0, 0, 2]


@pytest.mark.parametrize("at", ["infinity", "20000-01-01 00:00:00+00", "0001-01-01 00:00:00+00"])
@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
async def test_a_row_at_a_time_that_python_lacks_stops_no_takeover(session, db, tap, at, zone, make):
    await session.fetch(f"SET timezone = '{zone}'")
    await insert_events(db, 15, next_run_at=at)
    await insert_events(db, 1, **held(31, next_run_at=at))
    walk = make(LEASE_S, window=SMALL)
    assert sum([await walk.take_overdue(session, now=NOW) for _ in range(2)]) == 1


@pytest.mark.promise("one-owner")
@pytest.mark.parametrize("outcome", [Sent("9-1"), Retry(1, "e"), Dead("e")])
@pytest.mark.parametrize("claimed_again", [False, True])
async def test_the_frozen_owner_thaws_and_changes_nothing(session, db, tap, outcome, claimed_again, make):
    [row] = await insert_events(db)
    frozen = await claim(session, claim_id=new_claim_id(), dispatcher=7, limit=9)
    await make(0).take_overdue(session)
    if claimed_again:
        await claim(session, claim_id=new_claim_id(), dispatcher=8, limit=9)
    before = await read_table(db)
    outcomes = BatchOutcomes()
    outcomes.add(row, outcome)
    assert await settle(session, frozen.claim_id, outcomes) == Settlement(0, 0, 0, 0, frozenset({row}))
    assert (await read_table(db), await read_table(db, "message_dlq")) == (before, [])


async def test_a_row_that_is_being_settled_is_left_to_its_owner(session, db, tap, make):
    rows = await insert_events(db, 2, **held(31))
    async with db.transaction():
        await db.execute("SELECT FROM messaging.message_outbox WHERE id = %s FOR UPDATE", [rows[0]])
        assert await make(LEASE_S).take_overdue(session, now=NOW) == 1
    assert await statuses(db) == {"picked": 1, "pending": 1}


async def test_it_goes_on_when_its_session_breaks(database_url, db, tap: Tap, make):
    link = ReconnectingSession(PostgresTarget(database_url, "test"), "upkeep", rng=Random(1))
    async with anyio.create_task_group() as tasks:
        await tasks.start(link.keep)
        tasks.start_soon(make(0, every_s=0.01).run, link)
        await insert_events(db, **held(31))
        await tap.next(TakenOver)
        assert link.session is not None
        await db.execute("SELECT pg_terminate_backend(%s)", [link.session.backend_pid])
        await insert_events(db, **held(31))
        await tap.next(TakenOver)
        tasks.cancel_scope.cancel()
