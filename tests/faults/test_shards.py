"""Many streams: 8 shards and two routes, 24 keys, through the faults that touch what is kept for each."""

from typing import Any

import pytest
from redis.asyncio import Redis

from tests.faults.test_redis_loss import cut_tail, fail_over, put_back, replicate
from tests.support.faults.steps import after_publish, before_publish
from tests.support.faults.world import StartWorld, World, in_thread
from tests.support.redis import StartValkey
from tests.support.waiting import until

SHARDED = {"DISPATCH_STREAM_SHARDS": "8", "DISPATCH_ROUTES": "invoice.*=invoices,order.*=orders"}
PATIENT = {"DISPATCH_LEASE_MS": "60000"}  # what is taken over is not so by a lease


async def each_in_its_key(w: World) -> None:
    """Each event is in the key of its type and slot, under the id that its row says."""
    rows: dict[str, Any] = {
        event: (kind, slot, stream, stream_id)
        for event, kind, slot, stream, stream_id in await w.ask(
            "SELECT event_id::text, event_type, slot, stream, stream_id FROM messaging.message_outbox"
        )
    }
    used = set()
    async with Redis.from_url(w.valkey.url, decode_responses=True) as client:
        for key in w.keys:
            page: Any = await client.xrange(key)
            for entry_id, fields in page:
                kind, slot, stream, stream_id = rows[fields["event_id"]]
                assert (stream, stream_id, w.layout.key_of(kind, slot)) == (key, entry_id, key)
                used.add(key)
    assert len(used) > 12, "the load goes to many keys"


@pytest.mark.promise("redis-loss")
async def test_restarted_without_the_tail_of_its_aof(world: StartWorld) -> None:
    async with world(appendonly=True, **SHARDED) as w:
        one = await w.dispatcher()
        async with w.survives("24 keys: Redis restarted with its AOF tail cut") as fault:
            await w.commits(300)
            await in_thread(w.valkey.crash)
            await until(lambda: one.events("breaker_opened"), "the breaker opens")
            cut_tail(w.valkey, 40_000)
            await in_thread(w.valkey.start)
            fault.heal()
        assert await put_back(w) > 0
        await each_in_its_key(w)


@pytest.mark.promise("redis-loss")
async def test_failover_to_a_replica_that_is_behind(world: StartWorld, own_valkey: StartValkey) -> None:
    async with world(**SHARDED) as w:
        replica = own_valkey()
        one = await w.dispatcher()
        async with w.survives("24 keys: failover to a replica that missed acknowledged entries") as fault:
            between = await replicate(w, replica)
            await w.commits(50)
            between.stall()
            await w.commits(150)
            await fail_over(w, replica)
            one.redis.cut()
            fault.heal()
        assert await put_back(w) > 0
        await each_in_its_key(w)


@pytest.mark.promise("killed")
@pytest.mark.parametrize("step", [before_publish, after_publish])
async def test_killed_and_taken_over(world: StartWorld, step: Any) -> None:
    async with world(**PATIENT, **SHARDED) as w:
        one = await w.dispatcher()
        await w.dispatcher()
        async with w.survives(f"24 keys: kill -9 {step.__name__.replace('_', ' ')}", drain_s=30.0) as fault:
            await step(w, one)
            await one.kill()
            fault.heal()
        await each_in_its_key(w)


@pytest.mark.promise("lost-reply")
@pytest.mark.quick
async def test_replies_lost(world: StartWorld) -> None:
    async with world(**SHARDED) as w:
        one = await w.dispatcher()
        async with w.survives("24 keys: replies lost after XADD was applied") as fault:
            one.redis.drop_replies()
            await until(lambda: w.published(one), "Redis has what it claimed")
            await until(lambda: one.events("breaker_opened"), "the breaker opens")
            await w.commits(50)
            await one.redis.restore()
            fault.heal()
        await each_in_its_key(w)


@pytest.mark.promise("lost-reply")
async def test_cut_again_and_again(world: StartWorld) -> None:
    async with world(**SHARDED) as w:
        one = await w.dispatcher()
        async with w.survives("24 keys: the connection to Redis is cut 20 times") as fault:
            for _ in range(20):
                await w.commits(10)
                one.redis.cut(reset=True)
            fault.heal()
        await each_in_its_key(w)


@pytest.mark.promise("postgres-crash")
async def test_postgres_crashes(world: StartWorld, crashable_postgres: Any) -> None:
    async with world(**SHARDED) as w:
        one = await w.dispatcher()
        async with w.survives("24 keys: Postgres crashes and forgets settles") as fault:
            await w.commits(100)
            await in_thread(crashable_postgres.crash)
            await until(lambda: one.events("database_down"), "it notices")
            await in_thread(crashable_postgres.start)
            fault.heal()
        await each_in_its_key(w)
