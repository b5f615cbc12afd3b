"""Handlers that end, freeze or shake their process: it costs the event that did it, and no other event is buried."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.child import Child, StartCli
from tests.support.rows import insert_events, read_table, statuses
from tests.support.waiting import becomes, until

Db = psycopg.AsyncConnection[Any]

# Each handler writes a line to the file of its event type, before it does anything else.
SHOP = """
import asyncio, ctypes, os, signal, sys, time
import anyio
from dispatcher.handlers import handler

def note(kind):
    with open(kind, "a") as file:
        file.write(f"{os.getpid()}\\n")

@handler("segfault")
def segfault(payload):
    note("segfault")
    ctypes.string_at(0)

@handler("no-memory")
async def no_memory(payload):
    note("no-memory")
    os.kill(os.getpid(), signal.SIGKILL)

@handler("leaves")
def leaves(payload):
    note("leaves")
    os._exit(3)

@handler("leaves-once", attempts=1)
def leaves_once(payload):
    note("leaves-once")
    os._exit(3)

@handler("blocks")
async def blocks(payload):
    note("blocks")
    time.sleep(3600)

@handler("innocent")
def innocent(payload):
    note("innocent")
    time.sleep(0.3)

async def leave():
    await asyncio.to_thread(int)
    sys.exit(3)

async def interrupt():
    raise KeyboardInterrupt

@handler("asyncio-group")
async def asyncio_group(payload):
    async with asyncio.TaskGroup() as group:
        group.create_task(leave())

@handler("anyio-group")
async def anyio_group(payload):
    async with anyio.create_task_group() as group:
        group.start_soon(leave)

@handler("task")
async def task(payload):
    await asyncio.create_task(interrupt())

@handler("group")
async def group(payload):
    raise BaseExceptionGroup("both", [KeyboardInterrupt(), GeneratorExit()])

@handler("base")
async def base(payload):
    raise type("Strange", (BaseException,), {})("no Exception")

@handler("callback")
async def callback(payload):
    after = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.call_soon(sys.exit, 3)
    loop.call_soon(after.set)
    await after.wait()
"""
SHAKES = ("asyncio-group", "anyio-group", "task", "group", "base")


@pytest.fixture
def env(database_url: str, redis_url: str, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "shop.py").write_text(SHOP)
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "DISPATCHER_ENABLED": "true",
        "DISPATCH_HANDLERS": "shop",
        "DISPATCH_MAX_ATTEMPTS": "3",
    }


async def by_type(db: Db) -> dict[str, list[tuple[str, int]]]:
    found: dict[str, list[tuple[str, int]]] = {}
    for row in await read_table(db):
        found.setdefault(row["event_type"], []).append((row["status"], row["attempts"]))
    return found


def runs(folder: Path, kind: str) -> int:
    file = folder / kind
    return len(file.read_text().split()) if file.exists() else 0


@pytest.mark.timeout(240)  # several processes start one after the other
@pytest.mark.promise("handler-crash")
@pytest.mark.parametrize("guilty", ["segfault", "no-memory", "leaves"])
async def test_what_ends_its_process_is_charged_and_buried_and_nobody_else_is(
    guilty: str, cli: StartCli, env: dict[str, str], db: Db, tmp_path: Path
) -> None:
    await insert_events(db, 5, event_type="innocent")
    await insert_events(db, 1, event_type=guilty)
    await insert_events(db, 5, event_type="innocent")
    await insert_events(db, 20)
    child = await cli("run", "--processes=2", env=env, cwd=tmp_path)
    await becomes(lambda: statuses(db), {"sent": 30, "dead": 1}, "the rows", 150.0)
    assert runs(tmp_path, guilty) == 3
    assert (await by_type(db))[guilty] == [("dead", 3)]
    [copy] = await read_table(db, "message_dlq")
    assert copy["last_error"].startswith("ProcessLost: ")
    assert Counter(attempts for _, attempts in (await by_type(db))["order.created"]) == {0: 20}
    await child.terminate()


async def test_what_ends_its_process_has_the_attempts_of_its_handler(
    cli: StartCli, env: dict[str, str], db: Db, tmp_path: Path
) -> None:
    """One, and one more alone: other handlers might have ended the process the first time. All others have three."""
    await insert_events(db, 1, event_type="leaves-once")
    await cli("run", "--processes=2", env=env, cwd=tmp_path)
    await becomes(lambda: statuses(db), {"dead": 1}, "the rows", 150.0)
    assert runs(tmp_path, "leaves-once") == 2


@pytest.mark.timeout(240)
@pytest.mark.promise("handler-crash")
async def test_what_blocks_the_loop_longer_than_the_lease_is_charged_and_buried(
    cli: StartCli, env: dict[str, str], db: Db, tmp_path: Path
) -> None:
    env |= {"DISPATCH_LEASE_MS": "12000", "DISPATCH_PUBLISH_TIMEOUT_MS": "1000", "DISPATCH_MAX_ATTEMPTS": "2"}
    children: list[Child] = []
    for _ in range(3):
        child = await cli("run", env=env, cwd=tmp_path)
        await child.ready()
        children.append(child)
    await insert_events(db, 1, event_type="blocks")
    await insert_events(db, 5, event_type="innocent")
    await becomes(lambda: statuses(db), {"sent": 5, "dead": 1}, "the rows", 150.0)
    assert runs(tmp_path, "blocks") == 2
    [copy] = await read_table(db, "message_dlq")
    assert copy["last_error"].startswith("ProcessLost: ")
    assert "lease" in copy["last_error"]
    for child in children:
        await child.kill()


@pytest.mark.promise("handler-failure")
async def test_what_would_end_the_loop_is_a_failure_of_its_event_and_the_process_stays(
    cli: StartCli, env: dict[str, str], db: Db, tmp_path: Path
) -> None:
    env["DISPATCH_MAX_ATTEMPTS"] = "1"
    child = await cli("run", env=env, cwd=tmp_path)
    await child.ready()
    for kind in SHAKES:
        await insert_events(db, event_type=kind)
    await until(lambda: statuses(db), "rows")
    await becomes(lambda: statuses(db), {"dead": len(SHAKES)})
    await insert_events(db, event_type="callback")
    await insert_events(db, event_type="innocent")
    await becomes(lambda: statuses(db), {"dead": len(SHAKES), "sent": 2})
    assert await child.terminate() == 0
    assert not [line for line in child.lines if "Traceback" in line and not line.startswith("{")], child.output
    errors = {copy["event_type"]: copy["last_error"].split(":")[0] for copy in await read_table(db, "message_dlq")}
    assert errors["asyncio-group"] == "SystemExit"
    assert errors["group"] == "BaseExceptionGroup"
    assert json.loads(child.lines[-1])["event"] == "dispatcher_stopped"
