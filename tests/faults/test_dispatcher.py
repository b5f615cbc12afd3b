"""Dispatchers that die at each step, stop and crowd. What freezes is in test_frozen.py."""

from collections.abc import Awaitable, Callable

import pytest

from tests.support.faults.pgwire import StopClaim
from tests.support.faults.process import Process
from tests.support.faults.steps import after_publish, after_settle, before_publish, in_settle
from tests.support.faults.world import StartWorld, World
from tests.support.waiting import until

# So long that only a takeover from the dead can pass, and that no answer held back is given up before the kill.
PATIENT = {"DISPATCH_LEASE_MS": "60000", "DISPATCH_PUBLISH_TIMEOUT_MS": "20000"}

Bring = Callable[[World, Process], Awaitable[None]]


STEPS = [before_publish, after_publish, in_settle, after_settle]
QUICK = [pytest.param(step, marks=pytest.mark.quick) if step is after_publish else step for step in STEPS]


@pytest.mark.promise("killed")
@pytest.mark.parametrize("step", QUICK)
async def test_killed_with_a_second_one_running(world: StartWorld, step: Bring) -> None:
    async with world(**PATIENT) as w:
        one = await w.dispatcher()
        await w.dispatcher()
        async with w.survives(f"kill -9 {_words(step)}, a second one running", drain_s=30.0) as fault:
            await step(w, one)
            await one.kill()
            fault.heal()


@pytest.mark.promise("killed")
@pytest.mark.parametrize("step", STEPS)
async def test_killed_alone_and_started_again(world: StartWorld, step: Bring) -> None:
    async with world(**PATIENT) as w:
        one = await w.dispatcher()
        async with w.survives(f"kill -9 {_words(step)}, alone, started again", drain_s=30.0) as fault:
            await step(w, one)
            await one.kill()
            await w.dispatcher()
            fault.heal()


@pytest.mark.promise("killed")
async def test_entries_of_the_dead_arrive_late(world: StartWorld) -> None:
    """What the dead had written is applied by Redis only after another took its rows over: the fence must stop it."""
    async with world(**PATIENT) as w:
        one = await w.dispatcher()
        await w.dispatcher()
        async with w.survives("kill -9, its entries reach Redis after the takeover", drain_s=30.0) as fault:
            await before_publish(w, one)
            held = await w.picked(one)
            await one.kill_leaving_bytes()
            one.postgres.cut()
            fault.heal()

            async def taken_over() -> bool:
                rows = await w.ask("SELECT 1 FROM messaging.message_outbox WHERE id = ANY(%s) AND NOT settled", (held,))
                return not rows

            await until(taken_over, "its rows are settled by the other", 30.0)
            one.redis.let_go("to_server")


@pytest.mark.promise("killed")
async def test_a_claim_of_the_dead_is_made_late(world: StartWorld) -> None:
    """The claim was on its way to Postgres when its owner died."""
    async with world(**PATIENT) as w:
        trap = StopClaim()
        one = await w.dispatcher(filtered=trap)
        async with w.survives("kill -9, its claim reaches Postgres afterwards", drain_s=30.0) as fault:
            trap.arm(one.postgres, "to_server")
            await until(trap.sprung, "it claims")
            await w.commits(10)
            await one.kill_leaving_bytes()
            one.redis.cut()
            one.postgres.let_go("to_server")
            await until(lambda: w.picked(one), "its claim is made")
            await w.dispatcher()
            fault.heal()


@pytest.mark.promise("stop")
@pytest.mark.quick
@pytest.mark.in_order
async def test_sigterm_under_load(world: StartWorld) -> None:
    async with world(DISPATCH_BATCH_SIZE="20", DISPATCH_LEASE_MS="60000") as w:
        one = await w.dispatcher()
        await w.dispatcher()
        async with w.survives("SIGTERM under load and a backlog, a second one running") as fault:
            await w.backlog(3000)
            await until(lambda: w.picked(one), "it works on the backlog")
            assert await one.child.terminate() == 0
            fault.heal()
            assert await w.picked(one) == []
            assert (await w.sessions())[one.token] == 0


@pytest.mark.promise("stop")
async def test_sigterm_alone_under_load_and_started_again(world: StartWorld) -> None:
    async with world(DISPATCH_BATCH_SIZE="20", DISPATCH_LEASE_MS="60000") as w:
        one = await w.dispatcher()
        async with w.survives("SIGTERM under load, alone, started again") as fault:
            await w.backlog(3000)
            await until(lambda: w.picked(one), "it works on the backlog")
            assert await one.child.terminate() == 0
            assert await w.picked() == []
            await w.dispatcher()
            fault.heal()


@pytest.mark.promise("one-owner")
async def test_eight_at_once(world: StartWorld) -> None:
    async with world(DISPATCH_BATCH_SIZE="50") as w:
        for _ in range(8):
            await w.dispatcher(ready=False)
        for process in w.processes:
            await process.child.ready()
        async with w.survives("8 dispatchers at once, a backlog of 10,000") as fault:
            await w.backlog(10_000)
            fault.heal()
        took_part = await w.ask("SELECT DISTINCT by FROM audit.change WHERE after = 'picked'")
        assert len({name.split(" ")[2] for (name,) in took_part}) > 1


def _words(step: Bring) -> str:
    return step.__name__.replace("_", " ")
