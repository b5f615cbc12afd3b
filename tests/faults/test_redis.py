"""Redis that crashes, forgets, refuses and stalls."""

import asyncio

import pytest

from tests.support.faults.world import StartWorld, in_thread
from tests.support.waiting import pass_time, until


@pytest.mark.promise("redis-outage")
@pytest.mark.quick
async def test_killed_and_restarted(world: StartWorld) -> None:
    async with world(appendonly=True) as w:
        one = await w.dispatcher()
        async with w.survives("Redis killed and restarted, with AOF") as fault:
            await in_thread(w.valkey.crash)
            await until(lambda: one.events("breaker_opened"), "the breaker opens")
            await w.commits(50)
            await in_thread(w.valkey.start)
            fault.heal()


@pytest.mark.promise("lost-reply")
@pytest.mark.quick
async def test_reply_lost_after_the_entries_were_added(world: StartWorld) -> None:
    async with world() as w:
        one = await w.dispatcher()
        async with w.survives("Redis: replies lost after XADD was applied") as fault:
            one.redis.drop_replies()
            await until(lambda: w.published(one), "Redis has what it claimed")
            await until(lambda: one.events("breaker_opened"), "the breaker opens")
            await w.commits(50)
            await one.redis.restore()
            fault.heal()


@pytest.mark.promise("redis-outage")
async def test_a_pause_of_20_s(world: StartWorld) -> None:
    async with world() as w:
        await w.dispatcher()
        async with w.survives("Redis pauses for 20 s (CLIENT PAUSE)") as fault:
            await w.redis("CLIENT", "PAUSE", 20_000, "WRITE")
            await pass_time(20.0)
            fault.heal()


@pytest.mark.promise("redis-outage")
async def test_full(world: StartWorld) -> None:
    async with world() as w:
        one = await w.dispatcher()
        async with w.survives("Redis: OOM at maxmemory") as fault:
            await w.redis("CONFIG", "SET", "maxmemory", 1)
            await until(lambda: one.events("breaker_opened"), "the breaker opens")
            await w.commits(50)
            await w.backlog(1000)
            await w.redis("CONFIG", "SET", "maxmemory", 0)
            fault.heal()


@pytest.mark.promise("redis-outage")
@pytest.mark.quick
async def test_readonly(world: StartWorld) -> None:
    async with world() as w:
        one = await w.dispatcher()
        async with w.survives("Redis: READONLY, as in a failover") as fault:
            await w.redis("REPLICAOF", "127.0.0.1", 1)
            await until(lambda: one.events("breaker_opened"), "the breaker opens")
            await w.commits(50)
            await w.redis("REPLICAOF", "NO", "ONE")
            fault.heal()


@pytest.mark.promise("redis-outage")
async def test_loading(world: StartWorld) -> None:
    options = {
        "enable-debug-command": "yes",
        "key-load-delay": "20000",
        "loading-process-events-interval-bytes": "1024",
    }
    async with world(valkey=options) as w:
        one = await w.dispatcher()
        async with w.survives("Redis: LOADING for some seconds") as fault:
            await w.redis("EVAL", "for i = 1, 200 do redis.call('SET', 'k' .. i, string.rep('x', 2000)) end", 0)
            reload = asyncio.ensure_future(w.redis("DEBUG", "RELOAD"))
            await until(lambda: one.events("breaker_opened"), "the breaker opens")
            await w.commits(50)
            await reload
            fault.heal()
        assert "LOADING" in one.child.output


@pytest.mark.promise("redis-outage")
async def test_a_password_is_set(world: StartWorld) -> None:
    async with world() as w:
        one = await w.dispatcher()
        async with w.survives("Redis: NOAUTH") as fault:
            await w.redis("CONFIG", "SET", "requirepass", "x")
            w.password = "x"
            await w.redis("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await until(lambda: one.events("breaker_opened"), "the breaker opens")
            await w.commits(50)
            await w.redis("CONFIG", "SET", "requirepass", "")
            w.password = None
            fault.heal()


@pytest.mark.promise("redis-outage")
async def test_the_key_is_of_another_type(world: StartWorld) -> None:
    away = "redis.call('RENAME', KEYS[1], 'away'); redis.call('SET', KEYS[1], 'a string')"
    back = "redis.call('DEL', KEYS[1]); redis.call('RENAME', 'away', KEYS[1])"
    async with world() as w:
        one = await w.dispatcher()
        async with w.survives("Redis: WRONGTYPE") as fault:
            await w.redis("EVAL", away, 1, "sanctum:messages")
            await until(lambda: one.events("breaker_opened"), "the breaker opens")
            await w.commits(50)
            await w.redis("EVAL", back, 1, "sanctum:messages")
            fault.heal()
