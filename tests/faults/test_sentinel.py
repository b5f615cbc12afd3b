"""Redis found through sentinels: they make the replica the primary, and dispatchers find it."""

import pytest

from dispatcher.embedded.ask import ask
from dispatcher.embedded.cluster import wait_until
from tests.support.faults.world import World, in_thread
from tests.support.redis import StartSentinels
from tests.support.sentinels import FAILS_OVER_MS
from tests.support.waiting import until


@pytest.mark.promise("redis-outage")
@pytest.mark.parametrize("how", ["killed", "switched"])
async def test_failover_by_sentinels(
    how: str, fault_database_url: str, own_sentinels: StartSentinels, request: pytest.FixtureRequest
) -> None:
    watched = await in_thread(lambda: own_sentinels(down_after_ms=FAILS_OVER_MS))
    test = request.node.nodeid.partition("[")[0]
    async with World(fault_database_url, watched.primary, test, {"REDIS_URL": watched.url}) as w:
        one = await w.dispatcher(REDIS_URL=watched.url)
        async with w.survives(f"Redis: the primary is {how}, sentinels promote the replica") as fault:
            await w.commits(50)
            if how == "killed":
                await in_thread(watched.primary.crash)
                await until(lambda: one.events("breaker_opened"), "the breaker opens")
            else:  # the breaker may stay closed: who is told READONLY asks the sentinels, and they may know already
                ask(watched.sentinels[0].port, "SENTINEL", "FAILOVER", watched.service)
            await w.commits(50)
            await in_thread(
                lambda: wait_until(lambda: watched.primary_port() == watched.replica.port, "the replica is promoted")
            )
            w.valkey = watched.replica
            fault.heal()
