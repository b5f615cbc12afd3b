"""Order within an aggregate while its slots change hands. Without DISPATCH_ORDER the same faults turn events round."""

import pytest

from tests.support.faults.steps import before_publish
from tests.support.faults.world import StartWorld, World
from tests.support.waiting import until

LARGE = 100_000


async def settled(w: World, newest: int) -> bool:
    """Whether all rows up to this one are."""
    return not await w.ask("SELECT 1 FROM messaging.message_outbox WHERE id <= %s AND NOT settled LIMIT 1", (newest,))


@pytest.mark.promise("in-order")
@pytest.mark.quick
@pytest.mark.in_order
async def test_a_dispatcher_that_is_slow(world: StartWorld) -> None:
    """Its entries are on their way to Redis while the other goes on. This is what the check of the order must see."""
    async with world(DISPATCH_PUBLISH_TIMEOUT_MS="20000", DISPATCH_LEASE_MS="60000") as w:
        one = await w.dispatcher()
        await w.dispatcher()
        async with w.survives("the entries of one dispatcher are late") as fault:
            await before_publish(w, one)
            await w.commits(400)
            one.redis.let_go("to_server")
            fault.heal()
        overtaken = (await w.disorder()).overtaken
        assert bool(overtaken) != w.in_order


@pytest.mark.promise("in-order")
@pytest.mark.quick
@pytest.mark.in_order
async def test_dispatchers_come_and_go(world: StartWorld) -> None:
    async with world() as w:
        one, two = await w.dispatcher(), await w.dispatcher()
        async with w.survives(
            "one joins, one stops, one is killed, one is frozen beyond its lease", stolen=True
        ) as fault:
            await w.backlog(2000)
            await w.dispatcher()
            await w.commits(60)
            assert await one.child.terminate() == 0
            await w.commits(60)
            three = await w.dispatcher()
            await two.kill()
            await w.commits(60)
            four = await w.dispatcher()
            await w.backlog(2000)
            three.freeze()
            await w.commits(60)
            [(newest,)] = await w.ask("SELECT max(id) FROM messaging.message_outbox")
            await until(lambda: settled(w, newest), "others have sent what the frozen one had", 60.0)
            three.thaw()
            await w.commits(60)
            assert await four.child.terminate() == 0
            fault.heal()


@pytest.mark.promise("in-order")
@pytest.mark.in_order
async def test_one_aggregate_has_a_large_backlog(world: StartWorld) -> None:
    """All of it is in one slot, and its owner is killed on the way."""
    async with world() as w:
        one, _ = await w.dispatcher(), await w.dispatcher()
        async with w.survives("one aggregate has 100,000 events, a dispatcher is killed", drain_s=300.0) as fault:
            await w.backlog(LARGE, aggregates=1)
            await until(lambda: _gone(w, LARGE // 4), "a quarter is published", 200.0)
            await one.kill()
            await until(lambda: _gone(w, LARGE), "all are published", 300.0)
            fault.heal()


async def _gone(w: World, rows: int) -> bool:
    [(settled,)] = await w.ask("SELECT count(*) FROM messaging.message_outbox WHERE settled")
    return bool(settled >= rows)
