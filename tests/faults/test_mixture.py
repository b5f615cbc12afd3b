"""Random mixtures of faults from a seed, which is printed: FAULTS_SEED=... plays the same schedule again."""

import os
import random
import signal
from collections.abc import Awaitable, Callable, Sequence

import pytest

from dispatcher.embedded import EmbeddedPostgres
from tests.support.faults.process import Process
from tests.support.faults.world import StartWorld, World, in_thread

STEPS = int(os.environ.get("FAULTS_STEPS") or 12)
SEED = os.environ.get("FAULTS_SEED")

Step = Callable[[World, Process], Awaitable[None]]


async def sessions_end(w: World, one: Process) -> None:
    """All its Postgres sessions are terminated."""
    await w.end_sessions(f"dispatcher % {one.token} %")


async def postgres_cut(w: World, one: Process) -> None:
    """Its connections to Postgres are reset."""
    one.postgres.cut(reset=True)


async def redis_cut(w: World, one: Process) -> None:
    """Its connections to Redis are reset."""
    one.redis.cut(reset=True)


async def answers_of_redis_lost(w: World, one: Process) -> None:
    """Redis carries out what it asks, and it does not hear of it."""
    one.redis.drop_replies()
    await w.commits(20)
    await one.redis.restore()


async def answers_of_postgres_lost(w: World, one: Process) -> None:
    """Postgres carries out what it asks, and it does not hear of it."""
    one.postgres.drop_replies()
    await w.commits(20)
    await one.postgres.restore()


async def redis_refuses(w: World, one: Process) -> None:
    """Its connections break and new ones are refused."""
    one.redis.refuse()
    one.redis.cut()
    await w.commits(20)
    await one.redis.restore()


async def both_stall(w: World, one: Process) -> None:
    """Both servers are silent for a moment."""
    one.redis.stall()
    one.postgres.stall()
    await w.commits(20)
    await one.redis.restore()
    await one.postgres.restore()


async def frozen(w: World, one: Process) -> None:
    """A short SIGSTOP."""
    one.child.signal(signal.SIGSTOP)
    await w.commits(20)
    one.child.signal(signal.SIGCONT)


async def redis_restarts(w: World, one: Process) -> None:
    """Redis is killed and starts again with its append-only file."""
    await in_thread(w.valkey.crash)
    await w.commits(10)
    await in_thread(w.valkey.start)


async def redis_readonly(w: World, one: Process) -> None:
    """Redis is a replica for a moment."""
    await w.redis("REPLICAOF", "127.0.0.1", 1)
    await w.commits(10)
    await w.redis("REPLICAOF", "NO", "ONE")


async def stopped_and_started(w: World, one: Process) -> None:
    """SIGTERM; another one is started."""
    assert await one.child.terminate() == 0
    await w.dispatcher()


async def backlog(w: World, one: Process) -> None:
    """A thousand events at once."""
    await w.backlog(1000)


async def killed_and_started(w: World, one: Process) -> None:
    """kill -9; another one is started."""
    await one.kill()
    await w.dispatcher()


MILD = [
    sessions_end,
    postgres_cut,
    redis_cut,
    answers_of_redis_lost,
    answers_of_postgres_lost,
    redis_refuses,
    both_stall,
    frozen,
    redis_restarts,
    redis_readonly,
    stopped_and_started,
    backlog,
]


async def play(w: World, steps: Sequence[Step], seed: int, name: str) -> None:
    """Two dispatchers, STEPS faults in a row at random, the oracle at the end."""
    chance = random.Random(seed)
    schedule = [chance.choice(steps) for _ in range(STEPS)]
    print(f"FAULTS_SEED={seed}: {', '.join(step.__name__ for step in schedule)}")  # noqa: T201
    await w.dispatcher()
    await w.dispatcher()
    async with w.survives(name, stolen=True) as fault:
        for step in schedule:
            await step(w, chance.choice(await w.alive()))
            await w.commits(chance.randrange(5, 60))
        fault.heal()


def new_seed() -> int:
    """The given seed, or one at random."""
    return int(SEED) if SEED else random.SystemRandom().randrange(10**6)


@pytest.mark.promise("mixture")
@pytest.mark.parametrize("number", range(1 if SEED else 3))
async def test_mixture(world: StartWorld, number: int) -> None:
    seed = new_seed()
    async with world(appendonly=True) as w:
        await play(w, MILD, seed, f"a random mixture of {STEPS} faults")


@pytest.mark.promise("mixture")
@pytest.mark.parametrize("number", range(1 if SEED else 3))
async def test_mixture_with_kills(world: StartWorld, number: int) -> None:
    seed = new_seed()
    async with world(appendonly=True) as w:
        await play(
            w, [*MILD, *[killed_and_started] * 4], seed, f"a random mixture of {STEPS} faults, kill -9 among them"
        )


@pytest.mark.promise("mixture")
async def test_mixture_with_a_postgres_that_crashes(world: StartWorld, crashable_postgres: EmbeddedPostgres) -> None:
    async def postgres_crashes(w: World, one: Process) -> None:
        await in_thread(crashable_postgres.crash)
        await in_thread(crashable_postgres.start)

    seed = new_seed()
    async with world(appendonly=True) as w:
        name = f"a random mixture of {STEPS} faults, crashes of Postgres among them"
        await play(w, [*MILD, postgres_crashes, postgres_crashes], seed, name)
