"""Consumers, while the clock of Redis is set back."""

import threading
from datetime import timedelta
from typing import Any

from redis import asyncio as aio

from dispatcher.client.consumer import Group, Received
from dispatcher.client.shard_leases import lease_of
from tests.support.clock import StartClockedValkey
from tests.support.consumers import (
    GROUP,
    KEYS,
    PATIENCE_S,
    SHARDS,
    both_kinds,
    consuming,
    group,
    nothing_is_pending,
    pending,
    publish,
    until_nothing_is_pending,
)
from tests.support.waiting import becomes, until


def ordered() -> Group:
    return group(shards=SHARDS, ordered=True, claim_idle=timedelta(seconds=2))


async def all_are_held(client: Any) -> bool:
    return all([await client.hget(lease_of(key, GROUP), "holder") for key in KEYS])


@both_kinds
async def test_the_shards_of_a_dead_consumer_go_to_others_though_the_clock_went_back(
    kind: str, clocked_valkey: StartClockedValkey
) -> None:
    """Its leases end in an hour, by Redis's clock; so does what is remembered of its name."""
    server, set_clock = clocked_valkey()
    async with aio.Redis.from_url(server.url, decode_responses=True) as client:
        async with consuming(kind, server.url, ordered()) as died:
            await becomes(lambda: all_are_held(client), True, "it reads all", PATIENCE_S)
            leases: dict[str, Any] = {key: await client.hgetall(lease_of(key, GROUP)) for key in KEYS}
            await died.stop()
        for key, lease in leases.items():  # as if it had been killed
            await client.hset(lease_of(key, GROUP), mapping=lease)
        set_clock(-3600)
        for key in KEYS:
            await publish(client, "one", key=key)
        async with consuming(kind, server.url, ordered()) as running:
            assert [(await running.next()).aggregate_id for _ in KEYS] == ["one"] * SHARDS
            await nothing_is_pending(client)


@both_kinds
async def test_what_failed_comes_again_though_the_clock_went_back(
    kind: str, clocked_valkey: StartClockedValkey
) -> None:
    """Redis measures by its clock how long it was idle; by ours it is time."""
    server, set_clock = clocked_valkey()

    went_back = threading.Event()

    def behave(event: Received) -> None:
        if not went_back.is_set():
            raise ValueError

    async def waits() -> bool:  # the pause before a retry is an idle time that is nearly claim_idle
        return [each["time_since_delivered"] > 150_000 for each in await pending(client)] == [True]

    settings = group(retry=timedelta(seconds=2), claim_idle=timedelta(minutes=5))
    async with (
        aio.Redis.from_url(server.url, decode_responses=True) as client,
        consuming(kind, server.url, settings, behave) as running,
    ):
        await publish(client, "one")
        assert (await running.next()).deliveries == 1
        await until(waits, "it waits for its next delivery", PATIENCE_S)
        set_clock(-3600)
        went_back.set()
        assert (await running.next()).deliveries > 1
        await until_nothing_is_pending(client)
