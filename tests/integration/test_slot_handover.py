"""The handover of slots from the dead and the frozen: revoke, fence, adopt, free; each race is built."""

from collections.abc import AsyncIterator, Sequence
from random import Random
from typing import Any

import anyio
import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.core.backoff import Backoff
from dispatcher.core.decide import RetryPolicy
from dispatcher.core.errors import SessionLost, Unreachable
from dispatcher.core.events import SlotsFreed, SlotsRevoked, TakenOver
from dispatcher.core.owned_slots import mask_of
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.redis.connection import RedisConnection, RedisTarget
from dispatcher.infra.redis.search import Searcher
from dispatcher.stages.claim import claim, new_claim_id
from dispatcher.upkeep.adopted import SearchedSink
from dispatcher.upkeep.slot_handover import SlotHandover
from dispatcher.upkeep.takeover import Takeover
from tests.support.layouts import standing
from tests.support.rows import STREAM, insert_events, read_table, statuses
from tests.support.slots import Keep, Keeping, owners
from tests.support.waiting import PATIENCE_S


class Successor:
    """A dispatcher that takes over: its keeper, and the takeover with its handover."""

    def __init__(self, ours: Keeping, redis_connection: RedisConnection, handover: SlotHandover) -> None:
        self.ours = ours
        self.takeover = Takeover(
            [SearchedSink((STREAM,), redis_connection, Searcher(redis_connection, 60.0))],
            layout=standing(),
            lease_s=3600,
            deadline_s=60.0,
            retry=lambda event_type: RetryPolicy(10, Backoff(0.25, 60.0)),
            rng=Random(1),
            dispatcher_id=lambda: ours.id,
            own_row_gone=lambda: None,
            claims_in_flight=lambda: (),
            rows_released=lambda: None,
            observe=ours.tap,
            handover=handover,
        )

    async def look(self) -> None:
        """One look of the takeover, then one of the keeper."""
        await self.takeover.take_over_from_dead_and_slot_owners(self.ours.upkeep)
        await self.ours.look()


@pytest.fixture
async def broker(redis_url: str) -> AsyncIterator[RedisConnection]:
    connection = RedisConnection(
        RedisTarget.parse(redis_url), name="us", streams=(STREAM,), connect_timeout_s=30.0, on_lost=lambda why: None
    )
    await connection.connect()
    yield connection
    connection.close()


async def lane(database_url: str, owner: Keeping) -> Session:
    """A session of the owner's that claims."""
    name = owner.registry.name
    return await connect(PostgresTarget(database_url, f"{name.rsplit('-', 1)[-1]} {name}"), "lane-0")


async def take(session: Session, owner: Keeping) -> list[str]:
    """Claim everything; the event ids."""
    batch = await claim(session, claim_id=new_claim_id(), dispatcher=owner.id, limit=1000, layout=LAYOUT)
    return [row.event_id for row in batch.rows]


LAYOUT = ""


async def test_what_a_dead_owner_had_in_hand_is_settled_or_released_before_another_owns_its_slots(
    keep: Keep, broker: RedisConnection, redis: "Redis", database_url: str, db: Any
) -> None:
    dead, ours = await keep("dead0001"), await keep("beef0002")
    await dead.look()
    successor = Successor(ours, broker, SlotHandover(ours.keeper, ours.tap))
    await insert_events(db, 6)
    session = await lane(database_url, dead)
    events = await take(session, dead)
    for event in events[:4]:
        await redis.xadd(STREAM, {"event_id": event})
    await successor.look()
    assert ours.view.owned == (), "it is alive, and has not looked since we joined"
    await dead.die(db)
    await successor.look()
    assert await statuses(db) == {"sent": 4, "pending": 2}
    assert await owners(db) == {ours.id: 256}
    assert ours.tap.all(SlotsRevoked) == [SlotsRevoked(256, dead.registry.name)]
    assert ours.tap.all(SlotsFreed) == [SlotsFreed(256)]
    assert [row["name"] for row in await read_table(db, "dispatcher")] == [ours.registry.name]
    with pytest.raises(SessionLost):
        await session.fetch("SELECT 1")


class LooksAsSlotsAreFreed(SlotHandover):
    """The keeper looks as soon as slots are free, before the dead owner has left the registry."""

    ours: Keeping
    listener: psycopg.AsyncConnection[Any]

    async def free(self, session: Session) -> None:
        freed = len(self.ours.tap.all(SlotsFreed))
        await super().free(session)
        if len(self.ours.tap.all(SlotsFreed)) > freed:
            await heard(self.listener)
            await self.ours.look()


async def heard(listener: psycopg.AsyncConnection[Any]) -> None:
    """Wait until those who keep slots are told to look."""
    with anyio.fail_after(PATIENCE_S):
        async for _ in listener.notifies(stop_after=1):
            pass


async def test_slots_of_the_dead_are_taken_once_it_has_left_the_registry(
    keep: Keep, broker: RedisConnection, database_url: str, db: Any
) -> None:
    """Until then it counts among those who share them, and who has looked by then would look next after seconds."""
    dead, ours = await keep("dead0001"), await keep("beef0002")
    await dead.look()
    handover = LooksAsSlotsAreFreed(ours.keeper, ours.tap)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as listener:
        handover.ours, handover.listener = ours, listener
        await ours.look()
        await dead.die(db)
        await listener.execute("LISTEN outbox_slots")
        await Successor(ours, broker, handover).takeover.take_over_from_dead_and_slot_owners(ours.upkeep)
        assert [row["name"] for row in await read_table(db, "dispatcher")] == [ours.registry.name]
        await heard(listener)
    await ours.look()
    assert await owners(db) == {ours.id: 256}


class ClaimsDuringTheFence(SlotHandover):
    """Between the revocation and the fence the old owner's claim, begun before, commits."""

    session: Session

    async def fence(
        self, session: Session, connections: Sequence[RedisConnection], owner: int, name: str, deadline_s: float
    ) -> None:
        await self.session.fetch("COMMIT")
        await super().fence(session, connections, owner, name, deadline_s)


async def test_a_claim_that_began_before_the_revocation_and_committed_after_it_is_adopted(
    keep: Keep, broker: RedisConnection, database_url: str, db: Any
) -> None:
    dead, ours = await keep("dead0001"), await keep("beef0002")
    await dead.look()
    handover = ClaimsDuringTheFence(ours.keeper, ours.tap)
    successor = Successor(ours, broker, handover)
    await insert_events(db, 3)
    handover.session = await lane(database_url, dead)
    await handover.session.fetch("BEGIN")
    assert len(await take(handover.session, dead)) == 3
    await dead.die(db)
    await successor.look()
    assert await statuses(db) == {"pending": 3}
    assert ours.tap.all(TakenOver) == [TakenOver(3, dead.registry.name, died=True)]
    assert await owners(db) == {ours.id: 256}


async def test_a_claim_that_is_under_way_at_the_fence_is_ended_by_it(
    keep: Keep, broker: RedisConnection, database_url: str, db: Any
) -> None:
    dead, ours = await keep("dead0001"), await keep("beef0002")
    await dead.look()
    successor = Successor(ours, broker, SlotHandover(ours.keeper, ours.tap))
    await insert_events(db, 3)
    session = await lane(database_url, dead)
    await session.fetch("BEGIN")
    assert len(await take(session, dead)) == 3
    await dead.die(db)
    await successor.look()
    with pytest.raises(SessionLost):
        await session.fetch("COMMIT")
    assert await statuses(db) == {"pending": 3}
    assert await owners(db) == {ours.id: 256}


async def test_a_slot_is_not_free_while_a_row_of_it_is_picked_by_anybody(
    keep: Keep, broker: RedisConnection, database_url: str, db: Any
) -> None:
    """As by a successor that died after it adopted, or by the old owner, which is alive after its fence."""
    dead, ours = await keep("dead0001"), await keep("beef0002")
    await dead.look()
    successor = Successor(ours, broker, SlotHandover(ours.keeper, ours.tap))
    await insert_events(
        db, 1, aggregate_id="x", status="picked", picked_at="now", picked_by=77, claim_id=new_claim_id()
    )
    await dead.die(db)
    await successor.look()
    assert await owners(db) == {ours.id: 255, None: 1}
    await successor.look()
    assert await owners(db) == {ours.id: 255, None: 1}
    assert len(await read_table(db, "dispatcher")) == 2, "it stays in the registry as long as a slot was its own"
    await db.execute("UPDATE messaging.message_outbox SET status = 'pending', picked_by = NULL, claim_id = NULL")
    await successor.look()
    assert await owners(db) == {ours.id: 256}
    await successor.look()
    assert len(await read_table(db, "dispatcher")) == 1


class DiesBeforeTheFence(SlotHandover):
    """The successor dies between the revocation and the fence."""

    async def fence(
        self, session: Session, connections: Sequence[RedisConnection], owner: int, name: str, deadline_s: float
    ) -> None:
        raise Unreachable("we died here")


async def test_when_the_successor_dies_after_the_revocation_another_goes_on(
    keep: Keep, broker: RedisConnection, database_url: str, db: Any
) -> None:
    dead, first, second = await keep("dead0001"), await keep("beef0002"), await keep("beef0003")
    await dead.look()
    await insert_events(db, 3)
    session = await lane(database_url, dead)
    assert len(await take(session, dead)) == 3
    await dead.die(db)
    with pytest.raises(Unreachable):
        await Successor(first, broker, DiesBeforeTheFence(first.keeper, first.tap)).look()
    await second.look()
    assert (await owners(db), second.view.owned) == ({None: 256}, ()), "revoked, and not free"
    await first.die(db)
    await Successor(second, broker, SlotHandover(second.keeper, second.tap)).look()
    assert await statuses(db) == {"pending": 3}
    assert await owners(db) == {second.id: 256}
    with pytest.raises(SessionLost):
        await session.fetch("SELECT 1")


async def test_a_successor_that_stalled_marks_no_later_revocation_as_fenced(
    keep: Keep, broker: RedisConnection, db: Any
) -> None:
    frozen, stalled = await keep("dead0001"), await keep("beef0002")
    await frozen.look()
    handover, name = SlotHandover(stalled.keeper, stalled.tap), frozen.registry.name
    session, owner = stalled.upkeep, frozen.id
    assert owner is not None
    assert await handover.revoke(session, owner, name)
    # Meanwhile another one finishes it, the frozen one is back and owns its slots, and freezes again.
    await db.execute("UPDATE messaging.slot_owner SET owner = revoked_from, revoked_from = NULL, epoch = epoch + 1")
    await db.execute("UPDATE messaging.slot_owner SET owner = NULL, revoked_from = owner, epoch = epoch + 1")
    await handover.fence(session, [broker], owner, name, 60.0)
    [[fenced]] = await (await db.execute("SELECT count(*) FROM messaging.slot_owner WHERE fenced")).fetchall()
    assert fenced == 0


async def frozen_for_a_lease(ours: Keeping) -> None:
    """Look for as long as the lease: whoever gives no sign of life meanwhile is frozen."""
    for _ in range(6):
        ours.clock.now += 2.5
        await ours.look()


async def test_a_frozen_owner_with_nothing_in_hand_loses_its_slots_after_the_lease(
    keep: Keep, broker: RedisConnection, database_url: str, db: Any
) -> None:
    frozen, ours = await keep("dead0001"), await keep("beef0002", lease_s=10.0)
    await frozen.look()
    session = await lane(database_url, frozen)
    successor = Successor(ours, broker, SlotHandover(ours.keeper, ours.tap))
    await successor.look()
    await frozen_for_a_lease(ours)
    await successor.look()
    assert await owners(db) == {ours.id: 256}
    for each in (session, frozen.control, frozen.upkeep):
        with pytest.raises(SessionLost):
            await each.fetch("SELECT 1")


async def test_one_that_wakes_up_before_the_revocation_keeps_its_slots(
    keep: Keep, broker: RedisConnection, db: Any
) -> None:
    frozen, ours = await keep("dead0001"), await keep("beef0002", lease_s=10.0)
    await frozen.look()
    await ours.look()
    await frozen_for_a_lease(ours)
    assert ours.keeper.frozen
    await frozen.look()  # gives half of its slots to us
    await Successor(ours, broker, SlotHandover(ours.keeper, ours.tap)).look()
    assert (await owners(db), ours.tap.all(SlotsRevoked)) == ({frozen.id: 128, ours.id: 128}, [])


async def test_one_that_wakes_up_after_the_fence_finds_that_it_owns_nothing_and_joins_again(
    keep: Keep, broker: RedisConnection, database_url: str, db: Any
) -> None:
    frozen, ours = await keep("dead0001"), await keep("beef0002", lease_s=10.0)
    await frozen.look()
    known = frozen.view.slot_epochs(mask_of(range(256)))
    successor = Successor(ours, broker, SlotHandover(ours.keeper, ours.tap))
    await successor.look()
    await frozen_for_a_lease(ours)
    await successor.look()
    again = await connect(PostgresTarget(database_url, f"dead0001 {frozen.registry.name}"), "control")
    frozen.registry.control.session = frozen.control = again
    await frozen.registry.enrol(again)
    [(total,)] = await (await db.execute("SELECT sum(epoch)::int FROM messaging.slot_owner")).fetchall()
    assert total > known, "a claim that asks by the epochs it knows finds that it owns nothing"
    await frozen.look()
    assert frozen.view.owned == ()
    await ours.look()
    await frozen.look()
    assert await owners(db) == {frozen.id: 128, ours.id: 128}
    await again.close()


async def test_one_that_wakes_up_when_its_successor_has_died_before_the_fence_needs_none(
    keep: Keep, broker: RedisConnection, db: Any
) -> None:
    """It lives, so nobody would fence it: it says itself that it has nothing in hand."""
    frozen, first, second = await keep("dead0001"), await keep("beef0002", lease_s=10.0), await keep("beef0003")
    await frozen.look()
    frozen.view.begin_claim(mask_of([7]))
    await first.look()
    await frozen_for_a_lease(first)
    with pytest.raises(Unreachable):
        await Successor(first, broker, DiesBeforeTheFence(first.keeper, first.tap)).look()
    await first.die(db)
    successor = Successor(second, broker, SlotHandover(second.keeper, second.tap))
    await second.look()
    await successor.look()
    assert await owners(db) == {None: 256}
    await frozen.look()
    await second.look()
    await successor.look()
    await frozen.look()
    assert await owners(db) == {None: 1, second.id: 128, frozen.id: 127}, "of one it has a claim without an answer"
    frozen.view.end_claim(mask_of([7]))
    for _ in range(2):
        await frozen.look()
        await second.look()
        await successor.look()
    assert await owners(db) == {second.id: 128, frozen.id: 128}


async def test_all_die_at_once_and_others_start_under_other_names(
    keep: Keep, broker: RedisConnection, redis: "Redis", database_url: str, db: Any
) -> None:
    dead = [await keep("dead0001"), await keep("dead0002"), await keep("dead0003")]
    for _ in range(3):
        for each in dead:
            await each.look()
    await insert_events(db, 9)
    session = await lane(database_url, dead[0])
    events = await take(session, dead[0])
    await redis.xadd(STREAM, {"event_id": events[0]})
    for each in dead:
        await each.die(db)
    ours = await keep("beef0004")
    await ours.look()
    assert ours.view.owned == ()
    await Successor(ours, broker, SlotHandover(ours.keeper, ours.tap)).look()
    assert await owners(db) == {ours.id: 256}
    assert await statuses(db) == {"sent": 1, "pending": 8}
    assert len(await read_table(db, "dispatcher")) == 1
