"""Handlers with the real command line: found in the working directory, and never in the way of an end."""

import asyncio
import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.child import StartCli
from tests.support.command import RunCommand
from tests.support.rows import insert_events, read_table, statuses
from tests.support.waiting import becomes

STUBBORN = """
import asyncio, threading
from dispatcher.handlers import handler

@handler("thread")
def thread(payload):
    threading.Thread(target=threading.Event().wait).start()  # not a daemon: Python would wait for it
    print("in the thread", flush=True)
    threading.Event().wait()

@handler("task")
async def task(payload):
    print("in the task", flush=True)
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass
"""


@pytest.fixture
def env(database_url: str) -> dict[str, str]:
    return {"DATABASE_URL": database_url, "DISPATCHER_ENABLED": "true", "DISPATCH_UNROUTED": "dead"}


@pytest.mark.promise("handler-failure")
async def test_an_end_waits_for_no_handler_that_does_not_end(
    cli: StartCli, env: dict[str, str], db: psycopg.AsyncConnection[Any], tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(STUBBORN)
    child = await cli("run", "--handlers=shop", "--shutdown-grace-ms=5000", env=env, cwd=tmp_path)
    await insert_events(db, event_type="thread")
    await insert_events(db, event_type="task")
    await asyncio.gather(child.line("in the thread"), child.line("in the task"))
    assert await child.terminate() == 0
    assert "Traceback" not in child.output
    assert await statuses(db) == {"pending": 2}
    assert [row["attempts"] for row in await read_table(db)] == [0, 0]


@pytest.mark.promise("handler-at-least-once")
async def test_killed_while_a_handler_runs_it_runs_again(
    cli: StartCli, env: dict[str, str], db: psycopg.AsyncConnection[Any], tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(STUBBORN)
    (tmp_path / "mended.py").write_text("HANDLERS = {'thread': lambda payload: None}\n")
    await insert_events(db, event_type="thread")
    child = await cli("run", "--handlers=shop", env=env, cwd=tmp_path)
    await child.line("in the thread")
    await child.kill()
    assert await statuses(db) == {"picked": 1}
    successor = await cli("run", "--handlers=mended", env=env, cwd=tmp_path)
    await successor.line("claims_taken_over")
    await becomes(lambda: statuses(db), {"sent": 1})
    assert await successor.terminate() == 0


async def test_a_module_that_cannot_be_imported_is_one_line_and_exit_2(cli: StartCli, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("import stripe_but_misspelt\n")
    env = {"DATABASE_URL": "postgresql://127.0.0.1:1/x", "REDIS_URL": "redis://127.0.0.1:1/0"}
    child = await cli("run", env=env | {"DISPATCH_HANDLERS": "shop:HANDLERS"}, cwd=tmp_path)
    assert await child.wait() == 2
    [line] = child.lines
    assert line.startswith("dispatcher: DISPATCH_HANDLERS: shop cannot be imported: ModuleNotFoundError: ")
    assert "shop.py:1)" in line


async def test_status_and_doctor_ask_no_redis_where_none_is_used(
    command: RunCommand, db: psycopg.AsyncConnection[Any]
) -> None:
    settings = {"REDIS_URL": "", "DISPATCH_UNROUTED": "dead", "DISPATCH_HANDLERS": "shop"}
    code, output = await command("status", "--json", **settings)
    assert (code, json.loads(output)["stream"], json.loads(output)["problems"]) == (0, None, [])
    _, output = await command("doctor", "--json", **settings)
    assert not [each for each in json.loads(output)["findings"] if "redis" in each["check"]]
    code, output = await command("layout", "set", "--order", "aggregate", "--yes", "--json", **settings)
    assert (code, json.loads(output)["agrees"], json.loads(output)["keys"]) == (0, True, {})
    code, output = await command("layout", **settings, DISPATCH_ORDER="aggregate")
    assert (code, "in order" in output, "stream sanctum" in output) == (0, True, False)
