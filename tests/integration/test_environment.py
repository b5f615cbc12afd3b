"""Variables and log settings that are meant for others, and reach into the libraries that we use."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest

from tests.support.child import StartCli
from tests.support.rows import insert_events, statuses
from tests.support.waiting import becomes, until

Db = psycopg.AsyncConnection[Any]
TAKES_OVER = """
import logging, sys
from loguru import logger
logger.remove()
logger.add(sys.stderr, level="CRITICAL")
logging.basicConfig(level=logging.CRITICAL, force=True)
logging.disable(logging.CRITICAL)
async def fine(payload):
    logging.error("not heard, as it was asked for")
    sys.stdout.close()
    sys.stderr.close()
HANDLERS = {"fine": fine}
"""
FOREIGN = {
    "PROMETHEUS_MULTIPROC_DIR": "/nonexistent",
    "LOGURU_LEVEL": "CRITICAL",
    "LOGURU_FILTER": "somebody",
    "LOGURU_INFO_NO": "1",
    "LOGURU_DEBUG_NO": "50",
    "LOGURU_ENQUEUE": "true",
    "LOGURU_SERIALIZE": "true",
    "PYTHONASYNCIODEBUG": "1",
}


@pytest.mark.parametrize("processes", [1, 2])
async def test_what_is_meant_for_others_is_not_obeyed(
    cli: StartCli, database_url: str, redis_url: str, db: Db, tmp_path: Path, processes: int
) -> None:
    (tmp_path / "shop.py").write_text(TAKES_OVER)
    ours = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "DISPATCHER_ENABLED": "true"}
    child = await cli("run", "--handlers=shop:HANDLERS", f"--processes={processes}", env=ours | FOREIGN, cwd=tmp_path)
    await child.ready()
    await insert_events(db, 20)
    await insert_events(db, 1, event_type="fine")
    await becomes(lambda: statuses(db), {"sent": 21})

    async def sent() -> bool:
        async with aiohttp.ClientSession() as session, session.get(f"{child.http_url}/metrics") as page:
            return "messaging_outbox_sent_total 21.0" in await page.text()

    await becomes(sent, True, "whether the metrics say so")
    assert await child.terminate() == 0
    warning = "dispatcher: warning: PROMETHEUS_MULTIPROC_DIR is set and not obeyed: the metrics are at /metrics only"
    assert [line for line in child.lines if not line.startswith("{")] == [warning]
    events = [json.loads(line)["event"] for line in child.lines if line.startswith("{")]
    assert {"dispatcher_started", "dispatcher_stopping", "dispatcher_stopped"} <= set(events)
    assert "library_log" not in events  # asyncio's debug mode


OF_LIBPQ = {
    "PGOPTIONS": "-c statement_timeout=2s -c default_transaction_isolation=serializable -c lock_timeout=2s"
    " -c search_path=nowhere -c idle_session_timeout=2s -c enable_indexscan=off",
    "PGDATESTYLE": "German, DMY",
    "PGTZ": "Asia/Kathmandu",
    "PGAPPNAME": "somebody",
    "PGCLIENTENCODING": "LATIN1",
    "PGCONNECT_TIMEOUT": "1",
    "PGDATABASE": "nowhere",
    "PGHOST": "nowhere.example",
    "PGPORT": "1",
}


async def test_variables_of_libpq_change_no_session(cli: StartCli, database_url: str, redis_url: str, db: Db) -> None:
    ours = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "DISPATCHER_ENABLED": "true"}
    migrating = await cli("migrate", env=ours | OF_LIBPQ)
    assert await migrating.wait() == 0, migrating.output
    child = await cli("run", env=ours | OF_LIBPQ)
    await child.ready()
    await insert_events(db, 20)
    await becomes(lambda: statuses(db), {"sent": 20})
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as other, db.transaction():
        await db.execute("LOCK TABLE messaging.message_outbox IN ACCESS EXCLUSIVE MODE")

        async def waits_for_long() -> bool:
            cursor = await other.execute(
                "SELECT FROM pg_stat_activity WHERE application_name LIKE 'dispatcher %' AND wait_event_type = 'Lock'"
                " AND datname = current_database() AND clock_timestamp() - query_start > '3 s'"
            )
            return bool(cursor.rowcount)

        await until(waits_for_long, "a statement of ours waits longer than PGOPTIONS would allow")
    names = await (
        await db.execute(
            "SELECT DISTINCT split_part(application_name, ' ', 1) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    ).fetchall()
    assert names == [("dispatcher",)]
    await db.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'dispatcher %'"
        " AND datname = current_database()"
    )
    await insert_events(db, 20)
    await becomes(lambda: statuses(db), {"sent": 40})
    assert await child.terminate() == 0


def leads_to(pid: int, descriptor: int) -> str:
    return str(Path(f"/proc/{pid}/fd/{descriptor}").readlink())


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
async def test_closed_descriptors_are_no_socket_of_ours(database_url: str, redis_url: str, db: Db, closed: str) -> None:
    """What C code writes to standard error would go into the connection that got its number."""
    ours = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "DISPATCHER_ENABLED": "true"}
    program = f'exec "$0" -m dispatcher run --disable-http {closed}'
    child = await asyncio.create_subprocess_exec(
        *("sh", "-c", program, sys.executable), env=os.environ | ours, stdin=asyncio.subprocess.DEVNULL
    )
    try:
        await insert_events(db, 20)
        await becomes(lambda: statuses(db), {"sent": 20})
        for redirection in closed.split():
            number = {"<": 0, ">": 1, "2": 2}[redirection[0]]
            assert leads_to(child.pid, number) == "/dev/null"
        child.terminate()
        assert await asyncio.wait_for(child.wait(), 60) == 0
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


LEAKS = """
import resource
async def leak(payload):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # what is open stays so, and nothing more is opened
HANDLERS = {"leak": leak}
"""


async def test_a_process_without_a_file_descriptor_left_goes_on(
    cli: StartCli, database_url: str, redis_url: str, db: Db, tmp_path: Path
) -> None:
    """No file has to be opened for what it does later: taking over, burying, saying good-bye."""
    (tmp_path / "shop.py").write_text(LEAKS)
    ours = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "DISPATCHER_ENABLED": "true"}
    child = await cli("run", "--handlers=shop:HANDLERS", env=ours, cwd=tmp_path)
    await child.ready()
    await insert_events(db, 1, event_type="leak")
    await becomes(lambda: statuses(db), {"sent": 1})
    await db.execute("INSERT INTO messaging.dispatcher (name) VALUES ('dead')")
    await db.execute(
        "INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload, status, picked_at, picked_by,"
        " claim_id) SELECT 'a', 'a', '{}', 'picked', now(), max(id), gen_random_uuid() FROM messaging.dispatcher"
    )
    await insert_events(db, 20)
    await becomes(lambda: statuses(db), {"sent": 22})
    assert await child.terminate() == 0
