"""A dead dispatcher: fenced, its rows looked for in the stream, then sent or given back, never doubled."""

from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from time import monotonic
from typing import Any

import pytest
from redis.asyncio import Redis

from dispatcher.core.backoff import Backoff
from dispatcher.core.decide import RetryPolicy
from dispatcher.core.errors import SessionLost, Unreachable
from dispatcher.core.events import Reconciled, TakenOver
from dispatcher.core.layout import Layout, Route
from dispatcher.core.row import PROCESS_LOST, HandlerMark
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.redis.connection import RedisConnection, RedisTarget, client_name
from dispatcher.infra.redis.search import Searcher
from dispatcher.stages.claim import PROOF_EVENT_TYPE, EventTypeFilter, claim, new_claim_id
from dispatcher.upkeep.adopted import SearchedSink
from dispatcher.upkeep.fence import OPENS_AGAIN_S, fence
from dispatcher.upkeep.registry import Registry
from dispatcher.upkeep.standing_layout import StandingLayout
from dispatcher.upkeep.takeover import Takeover
from tests.support.layouts import stand_in_postgres, standing
from tests.support.postgres import unopened
from tests.support.proxy import StartProxy
from tests.support.rows import STREAM, insert_events, read_stream, read_table, statuses
from tests.support.tap import Tap

Succeed = Callable[..., Awaitable[Takeover]]
NAME = "host-1-deadbeef"


@pytest.fixture
async def session(database_url: str) -> AsyncIterator[Session]:
    session = await connect(PostgresTarget(database_url, "cafe0000 us"), "upkeep")
    yield session
    await session.close()


@pytest.fixture
async def owner(database_url: str) -> AsyncIterator[tuple[Registry, Session]]:
    """A dispatcher in the registry, and its control session: close it, and it is dead."""
    session = await connect(PostgresTarget(database_url, f"deadbeef {NAME}"), "control")
    link = unopened()
    link.session = session
    registry = Registry(NAME, link)
    await registry.enrol(session)
    yield registry, session
    await session.close()


@pytest.fixture
async def succeed(redis_url: str, tap: Tap) -> AsyncIterator[Callable[..., Awaitable[Takeover]]]:
    """Makes a successor whose broker is connected, to another URL if asked."""
    brokers: list[RedisConnection] = []

    async def make(
        url: str = redis_url, deadline_s: float = 60.0, layout: StandingLayout | None = None, sinks: bool = True
    ) -> Takeover:
        redis_connection = RedisConnection(
            RedisTarget.parse(url), name="us", streams=(STREAM,), connect_timeout_s=30.0, on_lost=lambda why: None
        )
        brokers.append(redis_connection)
        await redis_connection.connect()
        layout = layout or standing()
        sink = SearchedSink(layout.ours.keys, redis_connection, Searcher(redis_connection, deadline_s))
        return Takeover(
            [sink] if sinks else [],
            layout=layout,
            lease_s=3600,
            deadline_s=deadline_s,
            retry=lambda event_type: RetryPolicy(10, Backoff(0.25, 60.0)),
            rng=Random(1),
            dispatcher_id=lambda: 99,
            own_row_gone=lambda: None,
            claims_in_flight=lambda: (),
            rows_released=lambda: None,
            observe=tap,
        )

    yield make
    for redis_connection in brokers:
        redis_connection.close()


async def die(control: Session, db: Any) -> None:
    """End a dispatcher's control session, and wait until its lock is free."""
    await db.execute("SELECT pg_terminate_backend(%s, 5000)", (control.backend_pid,))
    await control.close()


async def picked_by(owner: Registry, session: Session, *, floor: str = "0-0") -> list[str]:
    """The owner claims everything; the event ids."""
    batch = await claim(session, claim_id=new_claim_id(), dispatcher=owner.id, limit=1000, floor=floor)
    return [row.event_id for row in batch.rows]


async def test_what_it_published_is_sent_and_what_it_did_not_is_given_back(
    session: Session, owner: tuple[Registry, Session], succeed: Succeed, redis: "Redis", db: Any, tap: Tap
) -> None:
    registry, control = owner
    await insert_events(db, 6)
    events = await picked_by(registry, session)
    ids = [await redis.xadd(STREAM, {"event_id": event}) for event in events[:4]]
    takeover = await succeed()
    assert await takeover.take_over_from_dead(session) == 0  # it is alive
    await die(control, db)
    assert await takeover.take_over_from_dead(session) == 6
    table = {str(row["event_id"]): row for row in await read_table(db)}
    assert [(table[event]["status"], table[event]["stream_id"]) for event in events] == [
        *(("sent", stream_id) for stream_id in ids),
        ("pending", None),
        ("pending", None),
    ]
    assert {row["attempts"] for row in table.values()} == {0}
    assert await read_table(db, "dispatcher") == []
    assert tap.all(TakenOver) == [TakenOver(6, NAME, died=True)]
    assert tap.all(Reconciled) == [Reconciled(4, 2)]
    assert len(await read_stream(redis)) == 4
    assert await takeover.take_over_from_dead(session) == 0


@pytest.mark.promise("layout")
async def test_rows_for_streams_are_left_to_a_dispatcher_of_the_layout_that_stands(
    session: Session,
    owner: tuple[Registry, Session],
    succeed: Succeed,
    redis: "Redis",
    db: Any,
    tap: Tap,
    database_url: str,
) -> None:
    """One of the layout before searches the wrong stream: it released what was published, and it went out again."""
    registry, control = owner
    await insert_events(db, 2, event_type="pay.x")
    events = await picked_by(registry, session)
    layout = Layout(STREAM, 1, (Route("pay.*", "payments"),))
    await stand_in_postgres(db, layout)
    for event in events:
        await redis.xadd("payments", {"event_id": event})
    await die(control, db)
    before = standing()
    takeover = await succeed(layout=before)
    assert await takeover.take_over_from_dead(session) == 0  # it has not heard yet that another layout stands
    before._stands = layout.fingerprint
    backend = await connect(PostgresTarget(database_url, f"deadbeef {NAME}"), "lane-0")
    assert await takeover.take_over_from_dead(session) == 0
    await backend.fetch("SELECT 1")  # nobody fences it each second
    await backend.close()
    assert await statuses(db) == {"picked": 2}
    assert tap.all(TakenOver) == [TakenOver(0, NAME, died=True)]
    assert await (await succeed(layout=standing(layout))).take_over_from_dead(session) == 2
    assert await statuses(db) == {"sent": 2}
    assert await read_table(db, "dispatcher") == []


@pytest.mark.promise("layout")
async def test_rows_for_streams_are_left_by_one_without_a_stream(
    session: Session, owner: tuple[Registry, Session], succeed: Succeed, redis: "Redis", db: Any
) -> None:
    """With DISPATCH_UNROUTED=dead: it cannot search. It releases them after a lease, when nobody else took them."""
    registry, control = owner
    await insert_events(db, 2)
    [event, _] = await picked_by(registry, session)
    await redis.xadd(STREAM, {"event_id": event})
    await die(control, db)
    without = await succeed(sinks=False)
    for _ in range(2):
        assert await without.take_over_from_dead(session) == 0
    assert await statuses(db) == {"picked": 2}
    assert await (await succeed()).take_over_from_dead(session) == 2
    assert await statuses(db) == {"sent": 1, "pending": 1}


@pytest.mark.promise("clock")
async def test_a_dead_one_is_succeeded_at_once_though_the_clock_went_back_since_its_claim(
    session: Session, owner: tuple[Registry, Session], succeed: Succeed, db: Any
) -> None:
    registry, control = owner
    await insert_events(db, 3)
    await picked_by(registry, session)
    await db.execute("UPDATE messaging.message_outbox SET picked_at = picked_at + interval '1 hour'")
    await die(control, db)
    assert await (await succeed()).take_over_from_dead(session) == 3
    assert await statuses(db) == {"pending": 3}
    assert await read_table(db, "dispatcher") == []


@pytest.mark.promise("killed")
async def test_only_one_succeeds(
    session: Session, owner: tuple[Registry, Session], database_url: str, succeed: Succeed, db: Any
) -> None:
    registry, control = owner
    await insert_events(db, 3)
    await picked_by(registry, session)
    await die(control, db)
    rival = await connect(PostgresTarget(database_url, "beef0000 rival"), "upkeep")
    [(held,)] = await rival.fetch("SELECT pg_try_advisory_lock(1869968483, %(id)s::integer)", {"id": registry.id})
    assert held
    takeover = await succeed()
    assert await takeover.take_over_from_dead(session) == 0
    await die(rival, db)
    assert await takeover.take_over_from_dead(session) == 3


async def test_it_is_fenced_first(
    session: Session, succeed: Succeed, redis: "Redis", redis_url: str, database_url: str
) -> None:
    theirs = await connect(PostgresTarget(database_url, f"deadbeef {NAME}"), "lane-0")
    namesake = await connect(PostgresTarget(database_url, "0badf00d host-1-0badf00d"), "lane-0")
    takeover = await succeed()
    names = {client_name(NAME), client_name("other")}
    async with (
        Redis.from_url(redis_url, client_name=client_name(NAME)) as zombie,
        Redis.from_url(redis_url, client_name=client_name("other")) as other,
    ):
        await zombie.ping()
        await other.ping()
        assert names <= {client["name"] for client in await redis.client_list()}
        assert await fence(session, takeover._search.connections(), NAME, 5.0)
        assert {client["name"] for client in await redis.client_list()} & names == {client_name("other")}
    with pytest.raises(SessionLost):
        await theirs.fetch("SELECT 1")
    assert await namesake.fetch("SELECT 1") == [(1,)]
    await namesake.close()
    await theirs.close()


async def test_a_sink_that_goes_away_leaves_nothing_half_done(
    session: Session, owner: tuple[Registry, Session], succeed: Succeed, redis_url: str, redis: "Redis", db: Any,
    proxy: StartProxy, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    registry, control = owner
    await insert_events(db, 3)
    [event, *_] = await picked_by(registry, session)
    await redis.xadd(STREAM, {"event_id": event})
    await die(control, db)
    through = await proxy(redis_url)
    takeover = await succeed(through.via(redis_url))
    real = session.fetch

    async def cut_after_adopting(sql: str, params: Any = None) -> list[tuple[Any, ...]]:
        rows = await real(sql, params)
        if "SET picked_at" in sql:
            through.refuse()
            through.cut()
        return rows

    monkeypatch.setattr(session, "fetch", cut_after_adopting)
    with pytest.raises(Unreachable):
        await takeover.take_over_from_dead(session)
    assert await statuses(db) == {"picked": 3}
    await through.restore()
    assert takeover._search._sinks[0].connection is not None
    await takeover._search._sinks[0].connection.connect()
    monkeypatch.undo()
    await takeover.settle_adopted(session)
    assert await statuses(db) == {"sent": 1, "pending": 2}


@pytest.mark.promise("killed")
async def test_what_a_living_one_claims_after_the_fence_is_not_taken(
    session: Session, owner: tuple[Registry, Session], succeed: Succeed, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its control session broke, the rest lives on: fenced, it claims again at once and will publish that."""
    registry, control = owner
    await insert_events(db, 2)
    await picked_by(registry, session)
    await die(control, db)
    takeover = await succeed()

    async def fence_and_let_it_claim(*arguments: Any) -> bool:
        fenced = await fence(*arguments)
        await insert_events(db, 3)
        await picked_by(registry, session)
        return fenced

    monkeypatch.setattr("dispatcher.upkeep.takeover.fence", fence_and_let_it_claim)
    assert await takeover.take_over_from_dead(session) == 2
    assert await statuses(db) == {"pending": 2, "picked": 3}
    assert [row["id"] for row in await read_table(db, "dispatcher")] == [registry.id]  # it still needs a successor


@pytest.mark.promise("handler-at-least-once")
async def test_one_that_has_its_lock_again_at_the_second_look_keeps_its_rows(
    session: Session, owner: tuple[Registry, Session], succeed: Succeed, database_url: str, db: Any, tap: Tap,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    registry, control = owner
    await insert_events(db, 2)
    await picked_by(registry, session)
    await die(control, db)
    takeover = await succeed()
    again = await connect(PostgresTarget(database_url, f"deadbeef {NAME}"), "control")

    async def comes_back(seconds: float) -> None:
        await registry.enrol(again)

    monkeypatch.setattr("dispatcher.upkeep.registry.anyio.sleep", comes_back)
    assert await takeover.take_over_from_dead(session) == 0
    assert await again.fetch("SELECT 1") == [(1,)]  # it was not fenced
    assert (await statuses(db), tap.all(TakenOver)) == ({"picked": 2}, [])
    await again.close()


@pytest.mark.promise("handler-crash")
@pytest.mark.parametrize("lives", [False, True])
async def test_what_a_handler_had_begun_is_charged_unless_its_dispatcher_lives(
    session: Session, owner: tuple[Registry, Session], succeed: Succeed, database_url: str, db: Any, *, lives: bool
) -> None:
    registry, control = owner
    await insert_events(db, 1)
    await claim(session, claim_id=new_claim_id(), dispatcher=registry.id, limit=9, floor=None, mark=HandlerMark.BEGUN)
    lane = await connect(PostgresTarget(database_url, f"deadbeef {NAME}"), "lane-0")
    await die(control, db)
    takeover = await succeed()
    assert await takeover.take_over_from_dead(session) == 1
    assert await statuses(db) == {"picked": 1}  # until it is seen whether a session is opened again
    with pytest.raises(SessionLost):
        await lane.fetch("SELECT 1")
    again = await connect(PostgresTarget(database_url, f"deadbeef {NAME}"), "lane-0") if lives else lane
    takeover._clock = lambda: monotonic() + OPENS_AGAIN_S
    await takeover.settle_adopted(session)
    [row] = await read_table(db)
    charged = (row["status"], row["attempts"], (row["last_error"] or "").startswith(PROCESS_LOST))
    assert charged == (("pending", 0, False) if lives else ("retry", 1, True))
    await lane.close()
    await again.close()


async def test_a_failed_succession_leaves_no_lock_behind(
    session: Session, owner: tuple[Registry, Session], succeed: Succeed, database_url: str, db: Any
) -> None:
    registry, control = owner
    await die(control, db)
    takeover = await succeed()
    assert takeover._search._sinks[0].connection is not None
    takeover._search._sinks[0].connection.close()
    for _ in range(3):
        with pytest.raises(Unreachable):
            await takeover.take_over_from_dead(session)
    again = await connect(PostgresTarget(database_url, f"deadbeef {NAME}"), "control")
    await registry.enrol(again)
    [row] = await read_table(db, "dispatcher")
    assert row["id"] == registry.id
    assert await takeover.take_over_from_dead(session) == 0
    await again.close()


@pytest.mark.promise("killed")
async def test_a_clean_stop_that_leaves_claims_is_succeeded(
    session: Session, owner: tuple[Registry, Session], succeed: Succeed, db: Any
) -> None:
    registry, control = owner
    await insert_events(db, 2)
    await picked_by(registry, session)
    await registry.deregister()
    await die(control, db)
    assert await (await succeed()).take_over_from_dead(session) == 2
    assert await read_table(db, "dispatcher") == []


async def test_proof_events_are_not_searched_for(owner, session, succeed, db, redis, tap):
    """They are in a stream of their own: from their floor on all of ours would be read."""
    await insert_events(db, 3, event_type=PROOF_EVENT_TYPE)
    _, control = owner
    only_these = EventTypeFilter((PROOF_EVENT_TYPE,), only_these=True)
    await claim(session, claim_id=new_claim_id(), dispatcher=owner[0].id, limit=10, event_types=only_these)
    await die(control, db)
    before = (await redis.info("commandstats")).get("cmdstat_xrange")
    await (await succeed()).take_over_from_dead(session)
    assert (await redis.info("commandstats")).get("cmdstat_xrange") == before
    assert await statuses(db) == {"pending": 3}
