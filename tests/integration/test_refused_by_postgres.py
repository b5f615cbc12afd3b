"""What Postgres refuses is tried again, less and less often; a claim that is given back late is not forgotten."""

from collections.abc import AsyncIterator
from random import Random
from time import monotonic
from typing import Any

import anyio
import psycopg
import pytest

from dispatcher.core.events import Published, Settled, StatementRefused, TakenOver, Ticked
from dispatcher.core.outcome import BatchOutcomes, Sent
from dispatcher.core.row import Batch
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.relay import claimer
from dispatcher.service import lifecycle
from dispatcher.stages.claim import claim, new_claim_id
from tests.support.handlers import MakeModule
from tests.support.rows import insert_events, statuses
from tests.support.running import StartDispatcher
from tests.support.settler import make_settler
from tests.support.tap import Tap

PATIENT_S = 30.0
Db = psycopg.AsyncConnection[Any]
REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not now'; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON messaging.message_outbox FOR EACH ROW WHEN (NEW.status = %s)
    EXECUTE FUNCTION refuse();
"""
RANGES = [(0.05, 0.1), (0.1, 0.2), (0.2, 0.4), (0.4, 0.8), (0.5, 1.0), (0.5, 1.0)]  # seconds, of each pause

ASIDE = [
    (0.1, 0.2),
    (0.2, 0.4),
    (0.4, 0.8),
    (0.8, 1.6),
    (1.6, 3.2),
    (3.2, 6.4),
    (6.4, 12.8),
    (12.8, 25.6),
    (15.0, 30.0),
]
ALL_RANGES = [*RANGES[:4], *ASIDE, (15.0, 30.0)]


class Impatient(Random):
    """Notes between what and what each pause was to be, and makes it none."""

    def __init__(self) -> None:
        super().__init__(1)
        self.asked: list[tuple[float, float]] = []

    def uniform(self, a: float, b: float) -> float:
        self.asked.append((a, b))
        return 0.0


async def refuse(db: Db, status: str) -> None:
    await db.execute(REFUSE.replace("%s", f"'{status}'"))


async def allow(db: Db) -> None:
    await db.execute("DROP TRIGGER refuse ON messaging.message_outbox")


@pytest.fixture
async def link(database_url: str) -> AsyncIterator[ReconnectingSession]:
    """A session that is kept open."""
    made = ReconnectingSession(PostgresTarget(database_url, "test"), "lane-0", rng=Random(1))
    async with anyio.create_task_group() as tasks:
        await tasks.start(made.keep)
        yield made
        tasks.cancel_scope.cancel()


async def one_row(db: Db, link: ReconnectingSession) -> Batch:
    await insert_events(db)
    return await claim(await link.get(), claim_id=new_claim_id(), dispatcher=None, limit=10)


async def refused(tap: Tap, times: int) -> None:
    for _ in range(times):
        await tap.next(Ticked, lambda event: event.result == "error" and "not now" in (event.error or ""))


async def test_a_settle_is_tried_less_and_less_often(db: Db, link: ReconnectingSession, tap: Tap) -> None:
    rng = Impatient()
    settler = make_settler(tap, rng=rng)
    batch = await one_row(db, link)
    await refuse(db, "sent")
    outcomes = BatchOutcomes()
    outcomes.add(batch.rows[0].id, Sent("1-1"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(settler.aside.run, link)
        assert await settler.settle(link, batch.claim_id, outcomes) is None
        await refused(tap, len(ALL_RANGES) + 1)  # the fifth is the first that is kept aside, and not paused after
        await allow(db)
        settler.aside.stop()
    assert rng.asked[: len(ALL_RANGES)] == [pytest.approx(pair) for pair in ALL_RANGES]
    assert tap.all(Settled)[0].sent == 1
    assert await statuses(db) == {"sent": 1}


async def test_claims_are_too(dispatcher: StartDispatcher, db: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = Impatient()
    monkeypatch.setattr(lifecycle, "SystemRandom", lambda: rng)
    await insert_events(db)
    await refuse(db, "picked")
    async with dispatcher() as running:
        await refused(running.tap, len(RANGES))
        await allow(db)
        await running.tap.next(Settled, lambda event: event.sent == 1, PATIENT_S)
    assert set(RANGES) <= {(round(low, 6), round(high, 6)) for low, high in rng.asked}


LEASE_MS = 600_000  # nobody waits for that


@pytest.mark.parametrize("trouble", ["lost", "refused"])
@pytest.mark.parametrize("where", ["stream", "handlers"])
async def test_a_claim_answered_too_late_is_given_back_though_that_fails_at_first(
    dispatcher: StartDispatcher,
    db: Db,
    handlers_module: MakeModule,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    trouble: str,
) -> None:
    late: list[str] = []

    async def claim_late(session: Session, **options: Any) -> Batch:
        batch = await claim(session, **options)
        if not batch.rows or late:
            return batch
        late.append(batch.claim_id)
        if trouble == "lost":
            session.cut()
        else:
            await refuse(db, "pending")
        return batch

    monkeypatch.setattr(claimer, "claim", claim_late)
    monkeypatch.setattr(claimer, "monotonic", lambda: monotonic() + (LEASE_MS / 1000 if late else 0))
    handled = {"handlers": handlers_module({"order.created": lambda payload: None})} if where == "handlers" else {}
    async with dispatcher(lease_ms=LEASE_MS, tick_ms=50, **handled) as running:
        await insert_events(db)
        if trouble == "refused":
            await refused(running.tap, 1)
            await allow(db)
        await running.tap.next(Settled, lambda event: event.sent == 1, PATIENT_S)
        assert running.tap.all(TakenOver) == []
    assert len(late) == 1
    assert await statuses(db) == {"sent": 1}


async def test_what_is_refused_again_and_again_is_told_until_it_works(dispatcher: StartDispatcher, db: Db) -> None:
    """In the server's words, by `/ready` too; what was published stays claimed, and goes out once."""
    async with dispatcher() as running:
        await refuse(db, "sent")
        await insert_events(db, 3)
        told = await running.tap.next(StatementRefused)
        assert told.what == "settle"
        assert told.error == "RaiseException P0001: not now"
        assert str(running.service.not_ready) == "database: it refuses to settle: RaiseException P0001: not now"
        assert "refused" in {trouble.kind for trouble in running.service.report().state.troubles}
        await allow(db)
        assert (await running.tap.next(StatementRefused)).error is None
        await running.tap.add_up(Settled, sent=3)
        assert running.service.not_ready is None
        assert sum(event.entries for event in running.tap.all(Published)) == 3
        assert await statuses(db) == {"sent": 3}
