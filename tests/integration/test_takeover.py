"""Claims that stand still for the lease come back unharmed, others stay, and the frozen owner's settle changes nothing.

How long is measured by the clock of the dispatcher that watches: the times in the table may be of any clock.
"""

from collections.abc import AsyncIterator, Callable, Collection, Iterable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import anyio
import psycopg
import pytest

from dispatcher.core.backoff import Backoff
from dispatcher.core.decide import RetryPolicy
from dispatcher.core.errors import Unreachable
from dispatcher.core.events import Buried, Handled, TakenOver
from dispatcher.core.incarnation import RedisIncarnation
from dispatcher.core.layout import Layout
from dispatcher.core.outcome import BatchOutcomes, FailedAttempt, FailedForGood, Sent
from dispatcher.core.row import HandlerMark
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.redis.connection import RedisConnection, RedisTarget
from dispatcher.infra.redis.search import Searcher
from dispatcher.stages.claim import claim, new_claim_id
from dispatcher.stages.settle import Settlement, settle
from dispatcher.upkeep.adopted import SearchedSink
from dispatcher.upkeep.takeover import Takeover
from tests.support.layouts import stand_in_postgres, standing
from tests.support.proxy import StartProxy
from tests.support.rows import STREAM, insert_events, read_table, statuses
from tests.support.tap import Tap

NOW = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)
LEASE_S = 30.0


@pytest.fixture
async def session(database_url: str) -> AsyncIterator[Session]:
    session = await connect(PostgresTarget(database_url, "test"), "upkeep")
    yield session
    await session.close()


def held(**columns: object) -> dict[str, Any]:
    """The columns of a claimed row."""
    return {
        "status": "picked",
        "picked_at": NOW,
        "picked_by": 7,
        "claim_id": new_claim_id(),
        "stream_id": "5-0",
        "next_run_at": NOW - timedelta(seconds=60),
        **columns,
    }


class Watch(Takeover):
    """A takeover whose own clock stands still but in `watch`."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.now = 1000.0
        super().__init__(*arguments, clock=lambda: self.now, own_row_gone=lambda: None, **named)

    async def watch(self, session: Session, for_s: float) -> int:
        """Check at once and then every five seconds for so long; returns how many rows were taken over."""
        total = await self.take_over_from_frozen(session)
        for step in range(0, int(for_s), 5):
            self.now += min(5.0, for_s - step)
            total += await self.take_over_from_frozen(session)
        return total


@pytest.fixture
async def redis_connection(redis_url: str) -> AsyncIterator[RedisConnection]:
    redis_connection = RedisConnection(
        RedisTarget.parse(redis_url),
        name="h-1-aaaa",
        streams=(STREAM,),
        connect_timeout_s=30.0,
        on_lost=lambda why: None,
    )
    await redis_connection.connect()
    redis_connection.incarnation = RedisIncarnation()  # as the gate does
    yield redis_connection
    redis_connection.close()


@pytest.fixture
def make(redis_connection: RedisConnection, tap: Tap) -> Callable[..., Watch]:
    """A takeover for a lease of so many seconds, by dispatcher 99."""

    def takeover(lease_s: float, in_flight: Collection[str] = (), **pace: Any) -> Watch:
        return Watch(
            [SearchedSink((STREAM,), redis_connection, Searcher(redis_connection, 30.0))],
            layout=standing(),
            lease_s=lease_s,
            deadline_s=30.0,
            retry=lambda event_type: RetryPolicy(10, Backoff(0.25, 60.0)),
            rng=Random(1),
            dispatcher_id=lambda: 99,
            claims_in_flight=lambda: in_flight,
            rows_released=lambda: None,
            observe=tap,
            **pace,
        )

    return takeover


SMALL = 10  # rows of a window


CLOCKS = {"behind": timedelta(days=1), "as usual": timedelta(0), "ahead": timedelta(days=-1)}


@pytest.mark.promise("frozen")
@pytest.mark.parametrize("clock", CLOCKS)
async def test_a_claim_that_stood_still_comes_back_and_costs_nothing(session, db, tap, make, clock):
    picked_at = datetime.now(UTC) + CLOCKS[clock]
    fresh, tried = [
        *await insert_events(db, **held(picked_at=picked_at)),
        *await insert_events(db, **held(picked_at=picked_at, attempts=4)),
    ]
    assert await make(LEASE_S).watch(session, LEASE_S) == 2
    assert sum(taken.rows for taken in tap.all(TakenOver)) == 2
    rows = await read_table(db)
    assert [(row["id"], row["status"], row["attempts"]) for row in rows] == [(fresh, "pending", 0), (tried, "retry", 4)]
    for row in rows:
        assert [row[column] for column in ("picked_at", "picked_by", "claim_id")] == [None] * 3
        assert row["next_run_at"] == NOW - timedelta(seconds=60)
    assert len((await claim(session, claim_id=new_claim_id(), dispatcher=1, limit=9)).rows) == 2


@pytest.mark.promise("layout")
async def test_a_row_that_another_layout_may_have_published_stays(session, db, make):
    """It may be in a stream that is not ours: not found there, it was released, and published twice."""
    await insert_events(db, **held())
    await insert_events(db, **held(stream_id=HandlerMark.BEGUN))
    await insert_events(db, **held(event_type="dispatcher.prove"))
    await stand_in_postgres(db, Layout(STREAM, shards=2))
    assert await make(LEASE_S).watch(session, LEASE_S) == 2
    assert [row["stream_id"] for row in await read_table(db) if row["status"] == "picked"] == ["5-0"]


@pytest.mark.promise("handler-crash")
@pytest.mark.parametrize(
    ("mark", "attempts", "status", "counted"),
    [
        (None, 9, "retry", 9),  # claimed for a handler that had not begun
        (HandlerMark.MAY_HAVE_BEGUN, 9, "retry", 9),
        (HandlerMark.BEGUN, 0, "retry", 1),
        (HandlerMark.BEGUN, 9, "retry", 9),  # another may have been the cause: nobody is buried beside others
        (HandlerMark.ALONE, 8, "retry", 9),
        (HandlerMark.ALONE, 9, "dead", 10),
    ],
)
async def test_a_handler_that_had_begun_costs_an_attempt_and_alone_the_last_one(
    session, db, tap, make, mark, attempts, status, counted
):
    await insert_events(db, **held(stream_id=mark, attempts=attempts))
    assert await make(LEASE_S).watch(session, LEASE_S) == 1
    [row] = await read_table(db)
    assert (row["status"], row["attempts"]) == (status, counted)
    error = await read_table(db, "message_dlq") if status == "dead" else [row]
    assert bool(error[0]["last_error"]) == (mark is not None)
    assert len(tap.all(Buried)) == (status == "dead")
    assert [event.handled for event in tap.all(Handled)] == ["lost"] * (mark is not None)
    await db.execute("UPDATE messaging.message_outbox SET next_run_at = now() - interval '1 s' WHERE status = 'retry'")
    batch = await claim(session, claim_id=new_claim_id(), dispatcher=99, limit=9, floor=None, mark=HandlerMark.BEGUN)
    assert [each.suspect for each in batch.rows] == [mark is not None] * (status == "retry")
    expected = None if mark is not None else "begun"  # a suspect is marked when it runs
    assert {each["stream_id"] for each in await read_table(db) if each["status"] == "picked"} <= {expected}


@pytest.mark.promise("clock")
@pytest.mark.parametrize("clock", CLOCKS)
async def test_a_claim_within_its_lease_stays_whatever_the_servers_clock_says(session, db, tap, make, clock):
    await insert_events(db, 2, **held(picked_at=datetime.now(UTC) + CLOCKS[clock]))
    before = await read_table(db)
    takeover = make(LEASE_S)
    assert await takeover.watch(session, LEASE_S - 1) == 0
    assert await read_table(db) == before
    assert tap.all(TakenOver) == []
    takeover.now += 1
    assert await takeover.take_over_from_frozen(session) == 2


@pytest.mark.promise("clock")
async def test_a_renewal_is_a_sign_of_life_also_when_the_clock_went_back(session, db, tap, make):
    ids = await insert_events(db, 3, **held())
    takeover = make(LEASE_S)
    for _ in range(4):
        assert await takeover.watch(session, LEASE_S - 5) == 0
        await db.execute("UPDATE messaging.message_outbox SET picked_at = picked_at - interval '1 hour'")
    await db.execute("UPDATE messaging.message_outbox SET picked_at = now() WHERE id = %s", [ids[0]])
    assert await takeover.watch(session, LEASE_S) == 3  # all of them: nobody has renewed since


@pytest.mark.promise("clock")
async def test_a_row_that_is_renewed_between_the_check_and_the_takeover_stays(session, db, tap, make, monkeypatch):
    gone, renewed = await insert_events(db, 2, **held(picked_by=None))
    takeover = make(LEASE_S)
    assert await takeover.watch(session, LEASE_S - 1) == 0
    real = session.fetch

    async def renew_after_the_check(sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = await real(sql, parameters)
        if "AS unchanged" in sql:
            await db.execute("UPDATE messaging.message_outbox SET picked_at = now() WHERE id = %s", [renewed])
        return rows

    monkeypatch.setattr(session, "fetch", renew_after_the_check)
    takeover.now += 1
    assert await takeover.take_over_from_frozen(session) == 1
    assert [(row["id"], row["status"]) for row in await read_table(db)] == [(gone, "pending"), (renewed, "picked")]


async def test_time_in_which_nobody_could_renew_does_not_count(session, db, tap, make):
    await insert_events(db, **held())
    takeover = make(LEASE_S)
    await takeover.take_over_from_frozen(session)
    takeover.now += 3600  # Postgres or the network stood still, or we did
    assert await takeover.take_over_from_frozen(session) == 0
    assert await takeover.watch(session, LEASE_S) == 1


@pytest.mark.promise("clock")
async def test_a_retry_waits_no_longer_when_the_clock_goes_back(session, db, tap, make):
    now = datetime.now(UTC)
    ahead = now + timedelta(days=1)
    tried: dict[str, Any] = {"status": "retry", "attempts": 1}
    await insert_events(db, picked_at=ahead, next_run_at=ahead + timedelta(seconds=30), **tried)
    [held] = await insert_events(db, picked_at=ahead, next_run_at=ahead, **tried)
    await insert_events(db, picked_at=now, next_run_at=now + timedelta(days=1), **tried)
    await insert_events(db, picked_at=ahead, next_run_at="infinity", **tried)
    await insert_events(db, next_run_at=ahead)  # scheduled for that time of day, whoever says what time it is

    async def waits() -> list[tuple[Any, ...]]:
        columns = "next_run_at::text, picked_at, status, attempts"
        rows = await db.execute(f"SELECT {columns} FROM messaging.message_outbox ORDER BY id")
        return list(await rows.fetchall())

    before = await waits()
    async with await psycopg.AsyncConnection.connect(db.info.dsn) as other:
        await other.execute("SELECT FROM messaging.message_outbox WHERE id = %s FOR UPDATE", [held])
        await make(LEASE_S).take_over_from_frozen(session)
        await other.rollback()
    [(next_run_at, picked_at, *state), *others] = await waits()
    assert timedelta(0) <= picked_at - now < timedelta(minutes=5)
    assert round((datetime.fromisoformat(next_run_at) - picked_at).total_seconds()) == 30
    assert state == ["retry", 1]
    assert others == before[1:]


@pytest.mark.parametrize("status", ["pending", "retry", "sent", "dead"])
async def test_it_lists_nothing_but_claims(session, db, tap, status, make):
    await insert_events(db, 3, **held(status=status))
    assert await make(LEASE_S).watch(session, 2 * LEASE_S) == 0
    assert await statuses(db) == {status: 3}


@pytest.mark.parametrize("rows", [35, 30])
async def test_it_gets_through_more_rows_than_one_window(session, db, tap, rows, make):
    for _ in range(rows):
        await insert_events(db, **held())
    walk = make(LEASE_S, window=SMALL)
    assert await walk.watch(session, 15) == 0
    assert await walk.watch(session, LEASE_S) == rows
    await db.execute("UPDATE messaging.message_outbox SET status = 'picked', picked_at = '2025-06-01' WHERE id = 1")
    assert await walk.watch(session, LEASE_S + 15) == 1  # from the start again


async def test_rows_that_wait_do_not_hide_what_is_behind_them(session, db, tap, make):
    await insert_events(db, 25, next_run_at=NOW - timedelta(hours=1))
    await insert_events(db, 2, **held())
    walk = make(LEASE_S, window=SMALL)
    assert await walk.watch(session, 10) == 0  # the third window has them
    assert await walk.watch(session, LEASE_S) == 2


@pytest.mark.parametrize("at", ["infinity", "20000-01-01 00:00:00+00", "0001-01-01 00:00:00+00"])
@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
async def test_a_row_at_a_time_that_python_lacks_stops_no_takeover(session, db, tap, at, zone, make):
    await session.fetch(f"SET timezone = '{zone}'")
    await insert_events(db, 15, next_run_at=at)
    await insert_events(db, 1, **held(next_run_at=at, picked_at=at))
    walk = make(LEASE_S, window=SMALL)
    assert await walk.watch(session, LEASE_S + 5) == 1


@pytest.mark.promise("one-owner")
@pytest.mark.parametrize("outcome", [Sent("9-1"), FailedAttempt(1, "e"), FailedForGood("e")])
@pytest.mark.parametrize("claimed_again", [False, True])
async def test_the_frozen_owner_thaws_and_changes_nothing(session, db, tap, outcome, claimed_again, make):
    [row] = await insert_events(db)
    frozen = await claim(session, claim_id=new_claim_id(), dispatcher=7, limit=9)
    assert await make(LEASE_S).watch(session, LEASE_S) == 1
    if claimed_again:
        await claim(session, claim_id=new_claim_id(), dispatcher=8, limit=9)
    before = await read_table(db)
    outcomes = BatchOutcomes()
    outcomes.add(row, outcome)
    assert await settle(session, frozen.claim_id, outcomes) == Settlement(0, 0, 0, 0, frozenset({row}))
    assert (await read_table(db), await read_table(db, "message_dlq")) == (before, [])


async def test_a_row_that_is_being_settled_is_left_to_its_owner(session, db, tap, make):
    rows = [*await insert_events(db, **held()), *await insert_events(db, **held())]
    async with db.transaction():
        await db.execute("SELECT FROM messaging.message_outbox WHERE id = %s FOR UPDATE", [rows[0]])
        assert await make(LEASE_S).watch(session, LEASE_S) == 1
    assert await statuses(db) == {"picked": 1, "pending": 1}


async def test_it_goes_on_when_its_session_breaks(database_url, db, tap: Tap, make):
    link = ReconnectingSession(PostgresTarget(database_url, "test"), "upkeep", rng=Random(1))
    async with anyio.create_task_group() as tasks:
        await tasks.start(link.keep)
        takeover = make(0, every_s=0.01)
        tasks.start_soon(takeover.run, link)
        await insert_events(db, **held())
        await tap.next(TakenOver)
        assert link.session is not None
        await db.execute("SELECT pg_terminate_backend(%s)", [link.session.backend_pid])
        await insert_events(db, **held())
        await tap.next(TakenOver)
        tasks.cancel_scope.cancel()


async def connected(url: str, stream: str) -> RedisConnection:
    connection = RedisConnection(
        RedisTarget.parse(url), name="b", streams=(stream,), connect_timeout_s=30.0, on_lost=lambda why: None
    )
    await connection.connect()
    connection.set_incarnation(RedisIncarnation())
    return connection


def sinks_of(layout: Layout, connections: Iterable[RedisConnection], deadline_s: float) -> list[SearchedSink]:
    """A sink for each shard; of all but the first a search has this deadline."""
    return [
        SearchedSink((key,), connection, Searcher(connection, deadline_s if shard else 30.0), layout.slots_of(shard))
        for shard, (key, connection) in enumerate(zip(layout.keys, connections, strict=True))
    ]


def watch_of(sinks: list[SearchedSink], layout: Layout, tap: Tap, us: int) -> Watch:
    return Watch(
        sinks,
        layout=standing(layout),
        lease_s=LEASE_S,
        deadline_s=30.0,
        retry=lambda event_type: RetryPolicy(10, Backoff(0.25, 60.0)),
        rng=Random(1),
        dispatcher_id=lambda: us,
        claims_in_flight=lambda: (),
        rows_released=lambda: None,
        observe=tap,
    )


async def test_who_waits_for_a_shard_with_rows_that_it_took_over_is_not_taken_for_frozen(
    session: Session,
    db: psycopg.AsyncConnection[Any],
    redis_connection: RedisConnection,
    redis_url: str,
    database_url: str,
    proxy: StartProxy,
    tap: Tap,
) -> None:
    """The node of a shard went away under the search, for longer than a lease. Others look meanwhile."""
    layout, through = Layout(STREAM, shards=2), await proxy(redis_url)
    await stand_in_postgres(db, layout)
    away = await connected(through.via(redis_url), layout.keys[1])

    def takeover(us: int) -> Watch:
        return watch_of(sinks_of(layout, (redis_connection, away), 0.2), layout, tap, us)

    await db.execute("INSERT INTO messaging.dispatcher (id, name) VALUES (98, 'b-1-bbbbbbbb')")
    await insert_events(db, 20, **held(stream_id="0-0"))
    ours, other = takeover(98), takeover(99)
    async with await psycopg.AsyncConnection.connect(
        database_url, application_name="dispatcher lane-0 bbbbbbbb b", autocommit=True
    ) as of_ours:
        assert ours._search.note_which_answer()
        through.stall()
        with pytest.raises(Unreachable):
            await ours.watch(session, LEASE_S)
        assert not away.up
        for _ in range(0, 3 * int(LEASE_S), 5):
            ours.now, other.now = ours.now + 5.0, other.now + 5.0
            await ours._check(session)
            assert other._search.note_which_answer()
            await other.take_over_from_frozen(session)
        waiting = await statuses(db)
        assert 0 < waiting.pop("picked") < 20
        assert set(waiting) == {"pending"}
        await of_ours.execute("SELECT 1")  # nobody has ended it


SWALLOWED = """
CREATE FUNCTION public.undo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.status = 'sent' AND hashtextextended(NEW.aggregate_id, 0) & 255 IN ({slots}) THEN RETURN NULL; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER undo BEFORE UPDATE ON messaging.message_outbox FOR EACH ROW EXECUTE FUNCTION public.undo()
"""


@pytest.mark.parametrize("of_shard", [0, 1])
async def test_rows_of_any_shard_that_a_trigger_undoes_stay_claimed(
    session: Session,
    db: psycopg.AsyncConnection[Any],
    redis_connection: RedisConnection,
    redis_url: str,
    tap: Tap,
    of_shard: int,
) -> None:
    """They are in the stream: released because another shard was settled after them, they would be published again."""
    layout = Layout(STREAM, shards=2)
    await stand_in_postgres(db, layout)
    other = await connected(redis_url, layout.keys[1])
    await db.execute(SWALLOWED.format(slots=", ".join(map(str, layout.slots_of(of_shard)))).encode())
    await insert_events(db, 20, **held(stream_id="0-0"))
    undone = set[int]()
    for row in await read_table(db):
        key = layout.key_of(row["event_type"], row["slot"])
        await redis_connection.send([("XADD", key, "*", "event_id", str(row["event_id"]))], 30.0)
        undone |= {row["id"]} if key == layout.keys[of_shard] else set()
    takeover = watch_of(sinks_of(layout, (redis_connection, other), 30.0), layout, tap, 99)
    assert takeover._search.note_which_answer()
    await takeover.watch(session, LEASE_S)
    assert 0 < len(undone) < 20
    assert {row["id"] for row in await read_table(db) if row["status"] == "picked"} == undone
    assert await statuses(db) == {"picked": len(undone), "sent": 20 - len(undone)}
    other.close()
