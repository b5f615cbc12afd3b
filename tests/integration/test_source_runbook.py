"""The runbook that we inherited: all its SQL works here as it stands. Runs where the runbook is present."""

import re
from pathlib import Path

import psycopg
import pytest

from tests.support.psql import psql
from tests.support.readme import ROOT
from tests.support.rows import insert_events, read_table, statuses
from tests.support.runbook import statements

RUNBOOK = ROOT.parent / "shared" / "seeds" / "dispatcher-runbook.md"
pytestmark = pytest.mark.skipif(not RUNBOOK.exists(), reason="the source runbook is not beside this checkout")


def text() -> str:
    return RUNBOOK.read_text(encoding="utf-8")


def sql_blocks() -> list[str]:
    """The blocks of SQL, those inside lists too."""
    return re.findall(r"^ *```sql\n(.*?)^ *```$", text(), re.MULTILINE | re.DOTALL)


async def fill(db: psycopg.AsyncConnection) -> None:
    """Rows that each of its statements finds: dead ones of this hour, of a Redis error; settled ones that are old."""
    await db.execute("TRUNCATE messaging.message_outbox")
    await insert_events(db, 2, status="dead", attempts=10, last_error="redis: ERR refused", picked_at="now")
    await insert_events(db, 3)
    old = {"occurred_at": "2025-06-01 00:00:00+00", "sent_at": "2025-06-01 00:00:00+00"}
    await insert_events(db, 4, status="sent", **old)


async def test_each_statement(db: psycopg.AsyncConnection) -> None:
    found = [statement for block in sql_blocks() for statement in statements(block)]
    assert len(found) >= 8
    for statement in found:
        await fill(db)
        cursor = await db.execute(statement.encode())
        if statement.startswith("UPDATE"):
            assert cursor.rowcount == 2
            replayed = [row for row in await read_table(db) if row["status"] == "pending" and row["attempts"] == 0]
            assert len(replayed) == 5
            assert all(row["last_error"] is None for row in replayed)
        elif "prune_message_outbox" in statement:
            assert await statuses(db) == {"dead": 2, "pending": 3}
        elif not statement.startswith("CALL"):
            assert await cursor.fetchall()


async def test_each_psql_line(db: psycopg.AsyncConnection, database_url: str) -> None:
    once = [*re.findall(r'psql \$\w+ -c "([^"]+)"', text()), *re.findall(r'- -c\n\s*- "([^"]+)"', text())]
    assert len(once) == 2
    for command in once:  # the second holds two CALLs: one transaction
        await fill(db)
        psql(database_url, "-c", command)
    assert await statuses(db) == {"dead": 2, "pending": 3}
    [inserted] = re.findall(r"<<EOF\n(.*?)^EOF$", text(), re.MULTILINE | re.DOTALL)
    psql(database_url, text=inserted)
    assert (await statuses(db))["pending"] == 4


def test_its_migration_is_a_file_that_psql_runs(empty_database_url: str) -> None:
    [path] = re.findall(r"psql \$DATABASE_URL -f (\S+)", text())
    psql(empty_database_url, "-f", str(ROOT / "sql" / "migrations" / Path(path).name))
