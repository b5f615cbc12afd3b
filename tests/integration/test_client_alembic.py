"""The outbox in Alembic's migrations: autogenerate leaves it alone, a revision makes it and takes it away."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from dispatcher.core.events import Started
from dispatcher.infra.postgres.migrations import migrate
from tests.support.psql import psql
from tests.support.readme import blocks, page
from tests.support.rows import insert_events
from tests.support.running import StartDispatcher

Run = Callable[..., subprocess.CompletedProcess[str]]
DRIVERS = ["psycopg", "psycopg2", "asyncpg"]

ENV = """
import asyncio, os
from alembic import context
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, pool
from sqlalchemy.ext.asyncio import create_async_engine
from dispatcher.client.alembic import include_name

metadata = MetaData()
Table("orders", metadata, Column("id", Integer, primary_key=True))
url = os.environ["SQLALCHEMY_URL"]

def run(connection):
    context.configure(
        connection=connection, target_metadata=metadata, include_schemas=True, include_name=include_name,
    )
    with context.begin_transaction():
        context.run_migrations()

async def run_async():
    async with create_async_engine(url, poolclass=pool.NullPool).connect() as connection:
        await connection.run_sync(run)

if context.is_offline_mode():
    context.configure(url=url, target_metadata=metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
elif "asyncpg" in url:
    asyncio.run(run_async())
else:
    with create_engine(url, poolclass=pool.NullPool).connect() as connection:
        run(connection)
"""
FIRST = """
import sqlalchemy as sa
from alembic import op
from dispatcher.client import alembic as outbox
revision, down_revision = "1", None

def upgrade():
    op.create_table("orders", sa.Column("id", sa.Integer, primary_key=True))
    outbox.upgrade(op)
    outbox.create_handled_event(op)

def downgrade():
    outbox.drop_handled_event(op)
    outbox.downgrade(op)
    op.drop_table("orders")
"""


@pytest.fixture
def alembic(tmp_path: Path, empty_database_url: str) -> Run:
    """`alembic("upgrade", "head", driver="psycopg")` in a project of its own, against an empty database."""
    versions = tmp_path / "migrations" / "versions"
    versions.mkdir(parents=True)
    (tmp_path / "migrations" / "env.py").write_text(ENV)
    (tmp_path / "migrations" / "script.py.mako").write_text("${upgrades if upgrades else 'pass'}")
    (versions / "first.py").write_text(FIRST)
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s/migrations\npath_separator = os\n")

    def run(*arguments: str, driver: str = "psycopg", code: int = 0) -> subprocess.CompletedProcess[str]:
        url = empty_database_url.replace("postgresql://", f"postgresql+{driver}://", 1)
        done = subprocess.run(
            [sys.executable, "-m", "alembic", *arguments],
            cwd=tmp_path, env={"SQLALCHEMY_URL": url, "PATH": ""}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_revision_makes_the_outbox_and_takes_it_away(
    alembic: Run, driver: str, empty_database_url: str
) -> None:
    for _ in range(2):
        alembic("upgrade", "head", driver=driver)
        assert await migrate(empty_database_url) == [], "dispatcher migrate knows that all is done"
        alembic("check", driver=driver)
        alembic("downgrade", "base", driver=driver)
        with psycopg.connect(empty_database_url) as connection:
            left = connection.execute("SELECT to_regnamespace('messaging'), to_regclass('handled_event')").fetchone()
            assert left == (None, None)


async def test_events_that_wait_are_not_dropped(alembic: Run, empty_database_url: str) -> None:
    alembic("upgrade", "head")
    async with await psycopg.AsyncConnection.connect(empty_database_url, autocommit=True) as connection:
        await insert_events(connection, 1)
        refused = alembic("downgrade", "base", code=1)
        assert "the outbox holds events that were not published" in refused.stderr
        await connection.execute("UPDATE messaging.message_outbox SET status = 'dead'")
        refused = alembic("downgrade", "base", code=1)
        assert "the outbox holds dead events about which nobody has decided" in refused.stderr
        await connection.execute("DELETE FROM messaging.message_outbox")
    alembic("downgrade", "base")


async def test_an_outbox_with_a_dispatcher_is_not_dropped(
    alembic: Run, dispatcher: StartDispatcher, empty_database_url: str
) -> None:
    alembic("upgrade", "head")
    async with dispatcher(database_url=empty_database_url) as running:
        refused = alembic("downgrade", "base", code=1)
        assert f"the dispatcher {running.tap.all(Started)[0].name} runs on this outbox" in refused.stderr
        assert "Stop it first" in refused.stderr
    alembic("downgrade", "base")


async def test_an_outbox_that_is_there_is_left_alone(alembic: Run, empty_database_url: str) -> None:
    await migrate(empty_database_url)
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        when = "SELECT max(applied_at) FROM messaging.schema_migration"
        before = connection.execute(when).fetchone()
        alembic("upgrade", "head")
        assert connection.execute(when).fetchone() == before
        # A release before this one: its last file and the trigger are run.
        connection.execute("DELETE FROM messaging.schema_migration WHERE name = (SELECT max(name) "
                           "FROM messaging.schema_migration WHERE name ~ '^[0-9]')")  # fmt: skip
    alembic("downgrade", "base")
    alembic("upgrade", "head")
    assert await migrate(empty_database_url) == []


async def test_a_release_with_new_tables_is_a_new_revision(
    alembic: Run, empty_database_url: str, tmp_path: Path
) -> None:
    alembic("upgrade", "head")
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("DELETE FROM messaging.schema_migration WHERE name >= '2026'")
    second = (
        FIRST.replace('"1", None', '"2", "1"').replace("    op.create_table", "    #").replace("    op.drop", "    #")
    )
    (tmp_path / "migrations" / "versions" / "second.py").write_text(second)
    alembic("upgrade", "head")
    assert await migrate(empty_database_url) == []


async def test_it_can_be_printed(alembic: Run, empty_database_url: str) -> None:
    printed = alembic("upgrade", "head", "--sql").stdout
    psql(empty_database_url, text=printed)
    assert await migrate(empty_database_url) == []


def test_without_the_filter_the_outbox_would_be_dropped(alembic: Run, tmp_path: Path) -> None:
    """So the test of `alembic check` above can fail."""
    alembic("upgrade", "head")
    env = tmp_path / "migrations" / "env.py"
    env.write_text(env.read_text().replace("include_name=include_name,", ""))
    found = alembic("check", code=255)
    assert "message_outbox" in found.stderr + found.stdout


async def test_what_the_page_shows(alembic: Run, empty_database_url: str, tmp_path: Path) -> None:
    shown = blocks("Beside Alembic", "python", page("how-to/migrate.md"))
    assert "include_name=include_name" in shown[0]
    (tmp_path / "migrations" / "versions" / "first.py").write_text(shown[1])
    alembic("upgrade", "head")
    assert await migrate(empty_database_url) == []
    alembic("downgrade", "base")


def test_the_module_imports_no_library() -> None:
    program = "import sys, dispatcher.client.alembic; print({'alembic', 'sqlalchemy', 'psycopg'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"
