"""Order from the commit to the handler: dispatchers and consumers that keep it, while one of each is killed."""

import asyncio
import os
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support.faults.world import StartWorld, World
from tests.support.rows import STREAM
from tests.support.waiting import until

SHARDS = 4
GROUP = "keepers"
CONSUMER = f"""
import os, sys, redis
from dispatcher.client.consumer import Consumer, Group
url, name, path = sys.argv[1:]
log = os.open(path, os.O_WRONLY | os.O_APPEND)
def handle(event):
    os.write(log, f"{{event.aggregate_id}} {{event.event_id}}\\n".encode())  # one write: appended as a whole
group = Group(stream="{STREAM}", group="{GROUP}", consumer=name, shards={SHARDS}, ordered=True, claim_idle_ms=2_000)
Consumer(redis.Redis.from_url(url), group, concurrency=3).run(handle)
"""


@pytest.fixture(autouse=True)
def _in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "in_order", True)


@pytest.mark.promise("in-order")
async def test_a_dispatcher_and_a_consumer_are_killed(world: StartWorld, tmp_path: Path) -> None:
    """The first time that each event is handled it is handled after all earlier ones of its aggregate."""
    path = tmp_path / "handled"
    path.touch()
    async with world(DISPATCH_STREAM_SHARDS=str(SHARDS)) as w:
        consumers = [await _consumer(w, name, path) for name in ("one", "two")]
        try:
            first, second = await w.dispatcher(), await w.dispatcher()
            async with w.survives("a dispatcher and a consumer of its events are killed", stolen=True) as fault:
                await _handled(w, path)
                await first.kill()
                await w.commits(100)
                await _handled(w, path)
                consumers[0].kill()
                await w.commits(100)
                await _handled(w, path)
                third = await w.dispatcher()
                await until(lambda: w.owns_slots(third), "one that joined owns slots")
                await second.kill()
                await w.commits(100)
                fault.heal()
            await _handled(w, path)
        finally:
            for consumer in consumers:
                if consumer.returncode is None:
                    consumer.kill()
                await consumer.wait()
        number = dict(
            await w.ask("SELECT event_id::text, coalesce((payload ->> 'n')::bigint, id) FROM messaging.message_outbox")
        )
    handled: dict[str, list[int]] = defaultdict(list)
    for line in path.read_text().splitlines():
        aggregate, event = line.split()
        if number[event] not in handled[aggregate]:
            handled[aggregate].append(number[event])
    assert [each for each in handled.values() if each != sorted(each)] == []


async def _consumer(w: World, name: str, path: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", CONSUMER, w.valkey.url, name, str(path), env=dict(os.environ)
    )


async def _handled(w: World, path: Path) -> None:
    """Wait until all that is committed now is handled."""
    now = set(w.load.ledger.acknowledged)

    def look() -> bool:
        return now <= {line.split()[1] for line in path.read_text().splitlines()}

    await until(look, f"{len(now)} events are handled", 60.0)
