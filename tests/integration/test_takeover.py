"""Claims older than the lease come back unharmed, younger ones stay, and the frozen owner's settle changes nothing."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import anyio
import pytest

from dispatcher.core.events import TakenOver
from dispatcher.core.outcome import Dead, Retry, Sent, Verdict
from dispatcher.infra.database import Session, Target, connect
from dispatcher.infra.link import Link
from dispatcher.stages.claim import claim, new_claim_id
from dispatcher.stages.settle import Settlement, settle
from dispatcher.upkeep import takeover
from dispatcher.upkeep.takeover import Takeover
from tests.fixtures.rows import insert_events, read_table, statuses
from tests.fixtures.tap import Tap

NOW = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)
LEASE_S = 30.0


@pytest.fixture
async def session(database_url: str) -> AsyncIterator[Session]:
    session = await connect(Target(database_url, "test"), "upkeep")
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
def window(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(takeover, "WINDOW", 10)
    return 10


async def test_an_overdue_claim_comes_back_and_costs_nothing(session, db, tap):
    fresh, tried = await insert_events(db, **held(31)) + await insert_events(db, **held(31, attempts=4))
    assert await Takeover(lease_s=LEASE_S, observe=tap).look(session, now=NOW) == 2
    assert (await tap.next(TakenOver)).rows == 2
    rows = await read_table(db)
    assert [(row["id"], row["status"], row["attempts"]) for row in rows] == [(fresh, "pending", 0), (tried, "retry", 4)]
    for row in rows:
        assert [row[column] for column in ("picked_at", "picked_by", "claim_id")] == [None] * 3
        assert (row["next_run_at"], row["stream_id"]) == (NOW - timedelta(seconds=60), "5-0")  # where to look for it
    assert len((await claim(session, claim_id=new_claim_id(), dispatcher=1, limit=9)).rows) == 2


async def test_a_claim_within_its_lease_stays(session, db, tap):
    await insert_events(db, **held(30))
    await insert_events(db, **held(0))
    await insert_events(db, **held(-5))
    before = await read_table(db)
    assert await Takeover(lease_s=LEASE_S, observe=tap).look(session, now=NOW) == 0
    assert await read_table(db) == before
    assert tap.all(TakenOver) == []


async def test_the_lease_is_measured_by_the_servers_clock(session, db, tap):
    await insert_events(db, 3)
    await claim(session, claim_id=new_claim_id(), dispatcher=7, limit=9)
    assert await Takeover(lease_s=LEASE_S, observe=tap).look(session) == 0
    assert await Takeover(lease_s=0, observe=tap).look(session) == 3


@pytest.mark.parametrize("status", ["pending", "retry", "sent", "dead"])
async def test_it_looks_at_nothing_but_claims(session, db, tap, status):
    await insert_events(db, 3, **held(3600, status=status))
    assert await Takeover(lease_s=LEASE_S, observe=tap).look(session, now=NOW) == 0
    assert await statuses(db) == {status: 3}


@pytest.mark.parametrize("rows", [35, 30])
async def test_it_gets_through_more_rows_than_one_window(session, db, tap, window, rows):
    await insert_events(db, rows, **held(31))
    walk = Takeover(lease_s=LEASE_S, observe=tap)
    freed = [await walk.look(session, now=NOW) for _ in range(4)]
    assert freed == [window, window, window, rows - 30]
    await db.execute("UPDATE messaging.message_outbox SET status = 'picked', picked_at = '2025-06-01' WHERE id = 1")
    assert await walk.look(session, now=NOW) == 1  # from the start again


async def test_rows_that_wait_do_not_hide_what_is_behind_them(session, db, tap, window):
    await insert_events(db, 25, next_run_at=NOW - timedelta(hours=1))
    await insert_events(db, 2, **held(31))
    walk = Takeover(lease_s=LEASE_S, observe=tap)
    assert [await walk.look(session, now=NOW) for _ in range(3)] == [0, 0, 2]


@pytest.mark.parametrize("at", ["infinity", "20000-01-01 00:00:00+00", "0001-01-01 00:00:00+00"])
@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
async def test_a_row_at_a_time_that_python_lacks_stops_no_takeover(session, db, tap, window, at, zone):
    await session.fetch(f"SET timezone = '{zone}'")
    await insert_events(db, 15, next_run_at=at)
    await insert_events(db, 1, **held(31, next_run_at=at))
    walk = Takeover(lease_s=LEASE_S, observe=tap)
    assert sum([await walk.look(session, now=NOW) for _ in range(2)]) == 1


@pytest.mark.parametrize("outcome", [Sent("9-1"), Retry(1, "e"), Dead("e")])
@pytest.mark.parametrize("claimed_again", [False, True])
async def test_the_frozen_owner_thaws_and_changes_nothing(session, db, tap, outcome, claimed_again):
    [row] = await insert_events(db)
    frozen = await claim(session, claim_id=new_claim_id(), dispatcher=7, limit=9)
    await Takeover(lease_s=0, observe=tap).look(session)
    if claimed_again:
        await claim(session, claim_id=new_claim_id(), dispatcher=8, limit=9)
    before = await read_table(db)
    verdict = Verdict()
    verdict.add(row, outcome)
    assert await settle(session, frozen.claim_id, verdict) == Settlement(0, 0, 0, 0, frozenset({row}))
    assert (await read_table(db), await read_table(db, "message_dlq")) == (before, [])


async def test_a_row_that_is_being_settled_is_left_to_its_owner(session, db, tap):
    rows = await insert_events(db, 2, **held(31))
    async with db.transaction():
        await db.execute("SELECT FROM messaging.message_outbox WHERE id = %s FOR UPDATE", [rows[0]])
        assert await Takeover(lease_s=LEASE_S, observe=tap).look(session, now=NOW) == 1
    assert await statuses(db) == {"picked": 1, "pending": 1}


async def test_it_goes_on_when_its_session_breaks(database_url, db, tap: Tap, monkeypatch):
    monkeypatch.setattr(takeover, "EVERY_S", 0.01)
    link = Link(Target(database_url, "test"), "upkeep", rng=Random(1))
    async with anyio.create_task_group() as tasks:
        await tasks.start(link.keep)
        tasks.start_soon(Takeover(lease_s=0, observe=tap).run, link)
        await insert_events(db, **held(31))
        await tap.next(TakenOver)
        assert link.session is not None
        await db.execute("SELECT pg_terminate_backend(%s)", [link.session.backend_pid])
        await insert_events(db, **held(31))
        await tap.next(TakenOver)
        tasks.cancel_scope.cancel()
