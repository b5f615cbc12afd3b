"""A dispatcher that is frozen (SIGSTOP) for longer than its lease, and thaws with work in its hands."""

import pytest

from tests.support.faults.pgwire import StopClaim
from tests.support.faults.process import Process
from tests.support.faults.steps import after_publish, before_publish, before_the_answer
from tests.support.faults.world import StartWorld, World
from tests.support.waiting import until


async def settled_by_another(w: World, one: Process, rows: list[int]) -> None:
    """Wait until the lease is over and somebody else has sent these rows."""

    async def look() -> bool:
        return not await w.ask("SELECT 1 FROM messaging.message_outbox WHERE id = ANY(%s) AND NOT settled", (rows,))

    await until(look, "the other has sent what the frozen one had claimed")


@pytest.mark.promise("frozen")
async def test_frozen_with_a_claim_in_its_socket(world: StartWorld) -> None:
    """It is frozen before it reads the answer to its claim: thawed, it would publish what is no longer its own."""
    async with world() as w:
        trap = StopClaim()
        one = await w.dispatcher(filtered=trap)
        await w.dispatcher()
        async with w.survives("SIGSTOP beyond the lease after a claim, then SIGCONT", stolen=True) as fault:
            rows = await before_the_answer(w, one, trap)
            one.freeze()
            one.postgres.let_go("to_client")
            await settled_by_another(w, one, rows)
            one.thaw()
            fault.heal()


@pytest.mark.promise("frozen")
async def test_frozen_with_entries_on_their_way(world: StartWorld) -> None:
    """It is frozen while its entries are on their way to Redis, where they arrive when the lease is over."""
    async with world() as w:
        one = await w.dispatcher()
        await w.dispatcher()
        async with w.survives(
            "SIGSTOP beyond the lease, its entries reach Redis after the takeover", stolen=True
        ) as fault:
            await before_publish(w, one)
            rows = await w.picked(one)
            one.freeze()
            await settled_by_another(w, one, rows)
            one.redis.let_go("to_server")
            one.thaw()
            fault.heal()


@pytest.mark.promise("frozen")
async def test_frozen_between_publish_and_settle(world: StartWorld) -> None:
    """Redis has its entries: the other must find them there, and the thawed one must change nothing."""
    async with world() as w:
        one = await w.dispatcher()
        await w.dispatcher()
        async with w.survives("SIGSTOP beyond the lease before the settle, then SIGCONT", stolen=True) as fault:
            await after_publish(w, one)
            rows = await w.picked(one)
            one.freeze()
            await settled_by_another(w, one, rows)
            one.redis.let_go("to_client")
            one.thaw()
            fault.heal()


@pytest.mark.promise("frozen")
@pytest.mark.quick
@pytest.mark.in_order
async def test_a_short_freeze(world: StartWorld) -> None:
    """Shorter than the lease, with entries on their way: nobody takes anything, nothing is doubled."""
    async with world(DISPATCH_LEASE_MS="60000") as w:
        one = await w.dispatcher()
        await w.dispatcher()
        async with w.survives("SIGSTOP within the lease, then SIGCONT") as fault:
            await before_publish(w, one)
            one.freeze()
            await w.commits(100)
            one.redis.let_go("to_server")
            one.thaw()
            fault.heal()
