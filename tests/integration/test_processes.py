"""`--processes N` with the real command line: one supervisor, N workers, one sidecar, and nobody left behind."""

import asyncio
import errno
import json
import os
import re
import signal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families
from psycopg.conninfo import conninfo_to_dict
from redis.asyncio import Redis

from dispatcher.core.events import WorkerEnded, WorkerStarted, WorkerStuck
from dispatcher.service.workers import pool, supervisor
from dispatcher.settings import Settings
from tests.support.child import Child, StartCli
from tests.support.rows import insert_events, read_stream, read_table, statuses
from tests.support.tap import Tap
from tests.support.waiting import becomes, until

Db = psycopg.AsyncConnection[Any]
STARTED = re.compile(r"worker-\d\d-pid(\d+)")


@pytest.fixture
def env(database_url: str, redis_url: str) -> dict[str, str]:
    return {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "DISPATCHER_ENABLED": "true"}


async def get(child: Child, path: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(child.http_url + path) as response:
        return await response.text()


async def metric(child: Child, sample: str) -> float:
    """A sample without labels, or the sum of those that have some."""
    families = text_string_to_metric_families(await get(child, "/metrics"))
    return sum(each.value for family in families for each in family.samples if each.name == sample)


def workers(child: Child) -> list[int]:
    """Process ids of all workers that were started, the newest last."""
    found = [json.loads(line) for line in child.lines if '"worker_started"' in line]
    return [int(STARTED.fullmatch(line["started"])[1]) for line in found]  # type: ignore[index]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.promise("workers")
async def test_workers_share_are_replaced_and_stop_together(
    cli: StartCli, env: dict[str, str], db: Db, redis: Redis
) -> None:
    """Started as Dispatchbox was: its flags with its meanings, a key/value DSN among them."""
    parts = conninfo_to_dict(env["DATABASE_URL"])
    child = await cli(
        *("run", "--enabled", "--dsn", " ".join(f"{name}={value}" for name, value in parts.items())),
        *("--processes", "2", "--batch-size", "20", "--poll-interval", "60", "--log-level", "INFO"),
        *("--http-host", "127.0.0.1"),
        env={"REDIS_URL": env["REDIS_URL"]},
    )
    await child.ready()
    first, second = workers(child)
    await insert_events(db, 2000)
    await becomes(lambda: statuses(db), {"sent": 2000})

    async def counted() -> float:
        return await metric(child, "messaging_outbox_sent_total")

    await becomes(counted, 2000)
    assert await metric(child, "messaging_dispatch_workers_running") == 2
    assert await metric(child, "messaging_dispatch_latency_seconds_count") == 2000
    assert json.loads(await get(child, "/health")) == {"status": "ok"}
    overview = json.loads(await get(child, "/api/overview"))
    assert (overview["processes"], overview["totals"]["published"]) == (2, 2000)
    assert len(overview["names"]) == 2

    [dead] = await insert_events(db, status="dead", attempts=10, last_error="x")
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{child.http_url}/api/dead-events/{dead}/retry") as response,
    ):
        assert response.status == 200, await response.text()
    await becomes(lambda: statuses(db), {"sent": 2001})  # the workers were told: the tick is a minute away
    await becomes(counted, 2001)
    assert await metric(child, "messaging_outbox_retried_total") == 1

    os.kill(second, signal.SIGKILL)
    again = await child.line('"again_in_s"')
    assert json.loads(again)["code"] == -signal.SIGKILL
    await becomes(lambda: len(workers(child)), 3, "the number of workers that were started")
    await child.ready()
    assert await metric(child, "messaging_outbox_sent_total") == 2001  # what the dead had counted stays
    assert await metric(child, "messaging_dispatch_worker_restarts_total") == 1
    await insert_events(db, 500)
    await becomes(counted, 2501)

    async def in_the_registry() -> bool:
        return second in {row["pid"] for row in await read_table(db, "dispatcher")}

    await becomes(in_the_registry, False, "the killed worker, once it was taken over,")

    assert await child.terminate() == 0
    assert not any(map(alive, [first, second, *workers(child)]))
    assert await statuses(db) == {"sent": 2501}
    assert len(await read_stream(redis)) == 2501
    assert await read_table(db, "dispatcher") == []  # all signed off
    lines = [json.loads(line) for line in child.lines]
    assert {STARTED.sub("worker", line["worker"].replace("supervisor", "worker-00")) for line in lines} == {"worker"}


@pytest.mark.promise("workers")
@pytest.mark.parametrize("twice", [False, True], ids=["each-once", "the-supervisor-twice"])
async def test_a_stop_that_reaches_supervisor_and_workers_alike(
    cli: StartCli, env: dict[str, str], db: Db, tmp_path: Path, twice: bool
) -> None:
    """As systemd does unless its unit says KillMode=mixed: what the supervisor says then is no second signal."""
    (tmp_path / "shop.py").write_text(WAITS)
    child = await cli("run", "--processes=2", "--handlers=shop:HANDLERS", env=env | PATIENT, cwd=tmp_path)
    await child.ready()
    await insert_events(db, event_type="slow")
    await until((tmp_path / "begun").exists, "its handler began")
    pids = workers(child)
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    await until(lambda: all(stopping(child, f"pid{pid}") for pid in pids), "the workers stop")
    child.signal(signal.SIGTERM)
    await until(lambda: stopping(child, "supervisor"), "the supervisor stops")
    if twice:
        child.signal(signal.SIGTERM)
        assert await child.wait() == 1
        assert await statuses(db) == {"picked": 1}
    else:
        (tmp_path / "go_on").touch()
        assert await child.wait() == 0
        assert await statuses(db) == {"sent": 1}


PATIENT = {"DISPATCH_SHUTDOWN_GRACE_MS": "50000"}
WAITS = """
import asyncio, pathlib
async def wait(payload):
    pathlib.Path("begun").touch()
    while not pathlib.Path("go_on").exists():
        await asyncio.sleep(0.01)
HANDLERS = {"slow": wait}
"""


def stopping(child: Child, name: str) -> bool:
    return any(name in line and '"dispatcher_stopping"' in line for line in child.lines)


@pytest.mark.promise("workers")
async def test_no_worker_outlives_the_supervisor(cli: StartCli, env: dict[str, str], db: Db) -> None:
    child = await cli("run", "--processes=2", env=env)
    await child.ready()
    pids = workers(child)
    assert len(pids) == 2
    child.signal(signal.SIGKILL)
    assert await child.wait() == -signal.SIGKILL
    await until(lambda: not any(map(alive, pids)), "the workers are gone")
    assert await read_table(db, "dispatcher") == []  # they stopped in order all the same


BLOCKED_WHILE_LOADING = """
import pathlib, time
pathlib.Path("loading").touch()
time.sleep(3600)
HANDLERS = {}
"""
BLOCKED_AT_WORK = """
import pathlib, time
async def block(payload):
    pathlib.Path("blocked").touch()
    time.sleep(3600)
HANDLERS = {"stuck": block}
"""


@pytest.mark.promise("workers")
async def test_a_worker_that_still_loads_does_not_outlive_the_supervisor(
    cli: StartCli, env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(BLOCKED_WHILE_LOADING)
    child = await cli("run", "--processes=2", "--handlers=shop:HANDLERS", env=env, cwd=tmp_path)
    await until((tmp_path / "loading").exists, "the module loads")
    [pid, *_] = workers(child)
    assert alive(pid)
    child.signal(signal.SIGKILL)
    await child.wait()
    await until(lambda: not alive(pid), "the worker is gone")


async def test_a_stop_while_workers_load_is_told_in_the_logs_format(
    cli: StartCli, env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(BLOCKED_WHILE_LOADING)
    child = await cli("run", "--processes=2", "--handlers=shop:HANDLERS", env=env, cwd=tmp_path)
    await until((tmp_path / "loading").exists, "the module loads")
    assert await child.terminate() == 0
    lines = [json.loads(line) for line in child.lines]
    ended = [(line["ended"], line["code"]) for line in lines if line["event"] == "worker_ended"]
    assert len(ended) == len(workers(child))
    assert {code for _, code in ended} == {0}


@pytest.mark.promise("workers")
async def test_a_worker_whose_loop_is_blocked_does_not_outlive_the_supervisor(
    cli: StartCli, env: dict[str, str], db: Db, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(BLOCKED_AT_WORK)
    options = ("--processes=2", "--handlers=shop:HANDLERS", "--shutdown-grace-ms=0")
    child = await cli("run", *options, env=env, cwd=tmp_path)
    await child.ready()
    await insert_events(db, event_type="stuck")
    await until((tmp_path / "blocked").exists, "the handler blocks")
    pids = workers(child)
    child.signal(signal.SIGKILL)
    await child.wait()
    await until(lambda: not any(map(alive, pids)), "the workers are gone")


@pytest.mark.promise("workers")
async def test_what_is_wrong_is_said_once_and_exit_2(cli: StartCli, env: dict[str, str], tmp_path: Path) -> None:
    child = await cli("run", "--processes=3", "--handlers=nowhere", env=env, cwd=tmp_path)
    assert await child.wait() == 2
    plain = [line for line in child.lines if not line.startswith("{")]
    assert len(plain) == 1
    assert plain[0].startswith("dispatcher: DISPATCH_HANDLERS is 'nowhere': there is no module nowhere")
    assert "Traceback" not in child.output


async def test_a_database_that_is_not_there_ends_all_of_them_with_2(cli: StartCli, env: dict[str, str]) -> None:
    nowhere = urlsplit(env["DATABASE_URL"])._replace(path="/nowhere").geturl()
    child = await cli("run", "--processes=2", env=env | {"DATABASE_URL": nowhere})
    assert await child.wait() == 2
    plain = [line for line in child.lines if not line.startswith("{")]
    assert len(plain) == 1
    assert "nowhere" in plain[0]
    assert "Traceback" not in child.output


@pytest.mark.promise("workers")
async def test_a_worker_that_says_nothing_is_replaced(database_url: str, redis_url: str, db: Db, tap: Tap) -> None:
    """Frozen, or its loop blocked by a handler: it does no work, and its probes cannot say so."""
    flags = {"database_url": database_url, "redis_url": redis_url, "enabled": "true", "log_level": "ERROR"}
    settings = Settings.load({}, flags | {"disable_http": True, "processes": "2"})
    starts = 0

    async def start_but_the_third(*arguments: Any) -> pool.Worker:
        nonlocal starts
        starts += 1
        if starts == 3:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return await pool.start_worker(*arguments)

    # More than a busy machine keeps a worker that works from its report.
    timing = supervisor.SupervisorTiming(stuck=15.0)
    ours = supervisor.Supervisor(settings, flags, tap, timing=timing, start=start_but_the_third)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(ours.run())
        [frozen, _] = [await tap.next(WorkerStarted) for _ in range(2)]
        await becomes(ours._not_ready, None, "why it is not ready")
        os.kill(int(STARTED.fullmatch(frozen.worker)[1]), signal.SIGSTOP)  # type: ignore[index]
        assert (await tap.next(WorkerStuck)).worker == frozen.worker
        ended = await tap.next(WorkerEnded)
        assert (ended.worker, ended.code) == (frozen.worker, -signal.SIGKILL)
        assert ours._not_ready() is None  # the other one relays
        not_started = await tap.next(WorkerEnded)
        assert not_started.worker == "worker-00 (could not be started: Cannot allocate memory)"
        await tap.next(WorkerStarted)
        await becomes(ours._not_ready, None, "why it is not ready")
        ours.stop("test")
    assert ours.exit_code == 0
