"""A Redis that lost entries it had acknowledged, and one that trims what nobody has read yet."""

import os
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from dispatcher.embedded import EmbeddedValkey
from tests.support.faults.world import StartWorld, World, in_thread
from tests.support.redis import StartValkey
from tests.support.rows import STREAM
from tests.support.waiting import pass_time, until


def cut_tail(valkey: EmbeddedValkey, size: int) -> None:
    """Cut the end of its append-only file, as a power loss between two fsyncs does."""
    [file] = Path(valkey.data_dir).glob("appendonlydir/*.incr.aof")
    os.truncate(file, file.stat().st_size - size)


@pytest.mark.promise("redis-loss")
async def test_restarted_without_the_tail_of_its_aof(world: StartWorld) -> None:
    async with world(appendonly=True) as w:
        one = await w.dispatcher()
        async with w.survives("Redis restarted with its AOF tail cut") as fault:
            await w.commits(300)
            await in_thread(w.valkey.crash)
            await until(lambda: one.events("breaker_opened"), "the breaker opens")
            cut_tail(w.valkey, 40_000)
            await in_thread(w.valkey.start)
            fault.heal()
        assert await put_back(w) > 0


async def replicate(w: World, replica: EmbeddedValkey) -> Any:
    """Make it a replica through a proxy, and wait until it is in step. Returns the proxy."""
    between = await w.proxy(w.valkey.url)
    async with Redis.from_url(replica.url, decode_responses=True) as client:
        await client.execute_command("REPLICAOF", "127.0.0.1", between.port)  # type: ignore[no-untyped-call]

        async def in_step() -> bool:
            return bool((await client.info("replication"))["master_link_status"] == "up")

        await until(in_step, "the replica is in step")
    return between


async def fail_over(w: World, replica: EmbeddedValkey) -> None:
    """The primary dies, the replica is promoted, and its address now leads there."""
    await in_thread(w.valkey.crash)
    async with Redis.from_url(replica.url) as client:
        await client.execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]
    w.valkey = replica
    for process in w.processes:
        process.redis.upstream = ("127.0.0.1", replica.port)


@pytest.mark.promise("redis-loss")
@pytest.mark.parametrize(
    "missed",
    [False, True],
    ids=["in step", "behind"],
)
async def test_failover(world: StartWorld, own_valkey: StartValkey, missed: bool) -> None:
    async with world() as w:
        replica = own_valkey()
        await w.dispatcher()
        what = "that missed acknowledged entries" if missed else "in step"
        async with w.survives(f"Redis: failover to a replica {what}") as fault:
            between = await replicate(w, replica)
            await w.commits(50)
            if missed:
                between.stall()
                await w.commits(150)
            else:
                await w.load.stop()  # or the last entries before the crash could be on their way to the replica
                await w.drained()
                await caught_up(w, replica)
                w.load.start()
            await fail_over(w, replica)
            await w.commits(50)  # between two batches it may be over before the breaker opens
            fault.heal()
        assert (await put_back(w) > 0) == missed


@pytest.mark.promise("redis-outage")
@pytest.mark.quick
@pytest.mark.parametrize("idle", [False, True], ids=["under load", "idle"])
async def test_switched_behind_one_address(world: StartWorld, own_valkey: StartValkey, idle: bool) -> None:
    """The old primary lives on as a replica, and keeps the connections it has. `idle`: no entry is refused there."""
    async with world() as w:
        replica = own_valkey()
        one = await w.dispatcher()
        async with w.survives(f"Redis switched behind one address{', idle' if idle else ''}") as fault:
            await replicate(w, replica)
            await w.load.stop()
            await w.drained()
            await caught_up(w, replica)
            old, w.valkey = w.valkey, replica
            async with Redis.from_url(replica.url) as client:
                await client.execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]
            async with Redis.from_url(old.url) as client:
                await client.execute_command("REPLICAOF", "127.0.0.1", replica.port)  # type: ignore[no-untyped-call]
            one.redis.upstream = ("127.0.0.1", replica.port)  # of new connections
            if not idle:
                w.load.start()
            await until(lambda: one.events("breaker_opened"), "the breaker opens")
            w.load.start()
            fault.heal()


async def put_back(w: World) -> int:
    """Rows that were sent and are published again: what Redis lost."""
    [(rows,)] = await w.ask("SELECT count(DISTINCT row_id) FROM audit.change WHERE before = 'sent' AND after <> 'sent'")
    print(f"{rows} entries that Redis had acknowledged were lost and are published again")  # noqa: T201
    return int(rows)


async def caught_up(w: World, replica: EmbeddedValkey) -> None:
    """Wait until the replica has as many entries as the primary."""
    expected = len(await w.entries())
    async with Redis.from_url(replica.url) as client:

        async def same() -> bool:
            return int(await client.xlen(STREAM)) == expected

        await until(same, "the replica has all entries")


@pytest.mark.promise("trimming")
async def test_a_slow_group_near_maxlen(world: StartWorld) -> None:
    """A group reads nothing while ten times MAXLEN is committed, then reads on: it must find every event."""
    async with world(REDIS_STREAM_MAXLEN="500", DISPATCH_BATCH_SIZE="50") as w:
        await w.redis("XGROUP", "CREATE", STREAM, "slow", "0", "MKSTREAM")
        one = await w.dispatcher()
        w.load.start()
        await w.backlog(5000)
        await w.load.stop()
        before = -1

        async def stands_still() -> bool:
            nonlocal before
            await pass_time(1.0)
            async with Redis.from_url(w.valkey.url, decode_responses=True) as client:
                added = int((await client.xinfo_stream(STREAM))["entries-added"])
            before, still = added, added == before
            return still

        await until(stands_still, "nothing is added any more", 60.0)
        read: set[str] = set()

        async def all_read() -> bool:
            async with Redis.from_url(w.valkey.url, decode_responses=True, protocol=2) as client:
                found: Any = await client.xreadgroup("slow", "me", {STREAM: ">"}, count=1000)
            read.update(fields["event_id"] for _, entries in found for _, fields in entries)
            return w.load.ledger.acknowledged.keys() <= read

        try:
            await until(all_read, "the group reads every event", 20.0)
        finally:
            print(f"a slow group near MAXLEN: {len(w.load.ledger.acknowledged)} events, {len(read)} read")  # noqa: T201
        assert one.alive
