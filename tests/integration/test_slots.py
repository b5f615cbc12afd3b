"""Dispatchers share the slots: they join, leave, stop one after another, are killed, freeze and come back."""

import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dispatcher.core.errors import Misconfigured
from dispatcher.core.events import SlotsChanged, SlotsRevoked
from tests.support.child import Child, StartCli
from tests.support.rows import insert_events, one_row, statuses
from tests.support.running import StartDispatcher
from tests.support.slots import owners, shares_of
from tests.support.waiting import becomes, until

IN_ORDER: dict[str, Any] = {"order": "aggregate"}


async def test_slots_are_shared_when_dispatchers_join_and_leave(dispatcher: StartDispatcher, db: Any) -> None:
    async with dispatcher(**IN_ORDER) as first:
        await first.tap.next(SlotsChanged, lambda event: event.owned == 256)
        async with dispatcher(**IN_ORDER) as second:
            await becomes(lambda: shares_of(db), [128, 128])
            async with dispatcher(**IN_ORDER) as third:
                await becomes(lambda: shares_of(db), [86, 85, 85])
                assert all(event.ranges == 1 for event in third.tap.all(SlotsChanged) if event.owned == 85)
            await becomes(lambda: shares_of(db), [128, 128])
        await becomes(lambda: shares_of(db), [256])
        assert not any(each.tap.all(SlotsRevoked) for each in (first, second, third)), "nobody was taken for dead"
    await becomes(lambda: owners(db), {None: 256})
    assert await one_row(db, "SELECT WHERE NOT EXISTS (SELECT FROM messaging.dispatcher)")


async def test_a_canary_owns_slots_of_its_share_only(dispatcher: StartDispatcher, db: Any) -> None:
    async with dispatcher(**IN_ORDER, canary_percent=10) as canary:
        await canary.tap.next(SlotsChanged, lambda event: event.owned == 26)
        assert await one_row(
            db, "SELECT max(slot) FROM messaging.slot_owner WHERE owner IS NOT NULL HAVING max(slot) = 25"
        )
        async with dispatcher(**IN_ORDER):
            await becomes(lambda: shares_of(db), [230, 26])
    await becomes(lambda: owners(db), {None: 256})


async def test_behind_a_transaction_pooler_it_does_not_start(
    dispatcher: StartDispatcher, database_url: str, db: Any
) -> None:
    elsewhere = database_url.replace("127.0.0.1", "localhost")
    with pytest.raises(ExceptionGroup) as raised:
        async with dispatcher(**IN_ORDER, database_url=elsewhere, listen_url=database_url, wait=False) as running:
            await running.tap.next(SlotsChanged)
    assert raised.group_contains(Misconfigured, match="leads through a transaction pooler")
    assert await owners(db) == {None: 256}


async def test_under_another_layout_it_owns_nothing(dispatcher: StartDispatcher, db: Any) -> None:
    """Or the events of its slots would wait for it while a new layout is rolled out."""
    async with dispatcher(**IN_ORDER):
        await becomes(lambda: shares_of(db), [256])
        async with dispatcher(**IN_ORDER, stream_shards=4):
            await until(lambda: one_row(db, "SELECT count(*) FROM messaging.dispatcher HAVING count(*) = 2"), "two run")
            assert await shares_of(db) == [256]


async def test_status_and_doctor_say_who_owns_how_many(
    dispatcher: StartDispatcher, cli: StartCli, database_url: str, redis_url: str, db: Any
) -> None:
    env = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "DISPATCH_ORDER": "aggregate"}
    async with dispatcher(**IN_ORDER) as running:
        await running.tap.next(SlotsChanged, lambda event: event.owned == 256)
        status, doctor = await cli("status", env=env), await cli("doctor", env=env)
        await status.line("owns 256 of 256 slots")
        await doctor.line("aggregate: 256 of 256 slots have an owner, 1 dispatcher")
        await status.wait()
        await doctor.wait()
    await db.execute("UPDATE messaging.slot_owner SET changed_at = changed_at - interval '1 hour'")
    doctor = await cli("doctor", env=env)
    await doctor.line("0 of 256 slots have an owner, 0 dispatchers (256 free): events of the others wait")


StartOrdered = Callable[..., Awaitable[Child]]


@pytest.fixture
def ordered(cli: StartCli, database_url: str, redis_url: str) -> StartOrdered:
    """Starts a dispatcher with an order in a process of its own. `lease_ms`: after which a frozen one is taken from."""

    async def start(lease_ms: int = 30_000) -> Child:
        env = {
            "DISPATCHER_ENABLED": "true",
            "DISPATCH_ORDER": "aggregate",
            "DISPATCH_LEASE_MS": str(lease_ms),
            "DISPATCH_PUBLISH_TIMEOUT_MS": "500",
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
        }
        return await cli("run", env=env)

    return start


@pytest.mark.promise("killed")
async def test_the_slots_of_one_that_is_killed_are_owned_by_the_others(ordered: StartOrdered, db: Any) -> None:
    one, two = await ordered(), await ordered()
    await becomes(lambda: shares_of(db), [128, 128])
    await insert_events(db, 300)
    await one.kill()
    await becomes(lambda: shares_of(db), [256])
    await two.line('"event": "slots_freed"')
    await becomes(lambda: statuses(db), {"sent": 300})
    assert await two.terminate() == 0
    assert await owners(db) == {None: 256}


@pytest.mark.promise("frozen")
async def test_one_that_is_frozen_loses_its_slots_and_shares_them_again_when_it_wakes_up(
    ordered: StartOrdered, db: Any
) -> None:
    one, two = await ordered(lease_ms=6000), await ordered(lease_ms=6000)
    await becomes(lambda: shares_of(db), [128, 128])
    one.signal(signal.SIGSTOP)
    await becomes(lambda: shares_of(db), [256])
    assert "slots_revoked" in two.output
    await insert_events(db, 300)
    await becomes(lambda: statuses(db), {"sent": 300})
    one.signal(signal.SIGCONT)
    await one.line('"event": "slots_lost"')
    await becomes(lambda: shares_of(db), [128, 128])
    assert [await one.terminate(), await two.terminate()] == [0, 0]
    assert await owners(db) == {None: 256}


@pytest.mark.promise("killed")
async def test_all_are_killed_at_once_and_others_own_everything(ordered: StartOrdered, db: Any) -> None:
    killed = [await ordered() for _ in range(3)]
    await becomes(lambda: shares_of(db), [86, 85, 85])
    for each in killed:
        each.signal(signal.SIGKILL)
    for each in killed:
        await each.wait()
    await insert_events(db, 300)
    successor = await ordered()
    await becomes(lambda: shares_of(db), [256])
    await becomes(lambda: statuses(db), {"sent": 300})
    assert await successor.terminate() == 0


async def test_a_rolling_restart_leaves_no_slot_behind(ordered: StartOrdered, db: Any) -> None:
    """Each is stopped after its successor runs, as a deployment does it."""
    running = [await ordered() for _ in range(2)]
    await becomes(lambda: shares_of(db), [128, 128])
    for number in range(2):
        running.append(await ordered())
        await becomes(lambda: shares_of(db), [86, 85, 85])
        await insert_events(db, 100)
        assert await running[number].terminate() == 0
        await becomes(lambda: shares_of(db), [128, 128])
    await becomes(lambda: statuses(db), {"sent": 200})
    assert not any("slots_revoked" in each.output for each in running)
    for each in running[2:]:
        assert await each.terminate() == 0
