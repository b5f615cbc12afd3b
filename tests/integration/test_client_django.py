"""The outbox as a Django app: migrations, checks, the admin, and the tests of a project that has it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from dispatcher.infra.postgres.migrations import migrate
from tests.support.psql import psql
from tests.support.readme import blocks, code, page
from tests.support.rows import insert_events

PROJECT = Path(__file__).parents[1] / "support" / "django_project"
APPLIED = "SELECT name, checksum FROM messaging.schema_migration ORDER BY name"
WHEN = "SELECT max(applied_at) FROM messaging.schema_migration"

Manage = Callable[..., str]


@pytest.fixture
def manage(empty_database_url: str) -> Manage:
    """`manage("migrate", DRIVER="psycopg2")`: runs manage.py on an empty database; its output. `code`: its exit."""

    def run(*arguments: str, code: int = 0, **variables: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments], cwd=PROJECT, capture_output=True, text=True, check=False,
            env={"PATH": os.environ["PATH"], "DATABASE": empty_database_url} | variables,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def query(url: str, sql: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(sql.encode()).fetchall()


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
async def test_migrations_make_the_outbox_and_take_it_away(
    manage: Manage, driver: str, empty_database_url: str
) -> None:
    assert "Run 20250203_message_outbox.sql" in manage("migrate", "--plan")
    assert "issues" not in manage("migrate", DRIVER=driver)
    assert await migrate(empty_database_url) == [], "dispatcher migrate knows that all is done"
    manage("makemigrations", "--check", "--dry-run")
    manage("migrate", "--check")
    assert "no issues" in manage("check", "--database", "default", "--fail-level", "WARNING")
    manage("migrate", "outbox_dispatcher", "zero", DRIVER=driver)
    assert query(empty_database_url, "SELECT to_regnamespace('messaging')") == [(None,)]
    manage("migrate", DRIVER=driver)
    assert await migrate(empty_database_url) == []


async def test_dispatcher_migrate_may_come_first(manage: Manage, empty_database_url: str) -> None:
    await migrate(empty_database_url)
    before = query(empty_database_url, WHEN)
    manage("migrate")
    assert query(empty_database_url, WHEN) == before
    assert "no issues" in manage("check", "--database", "default", "--fail-level", "WARNING")


async def test_both_write_the_same_notes(manage: Manage, empty_database_url: str, database_url: str) -> None:
    manage("migrate")
    assert query(empty_database_url, APPLIED) == query(database_url, APPLIED)


async def test_a_release_brings_new_migrations(manage: Manage, empty_database_url: str) -> None:
    """Django stops at an older file; then the rest comes by either way."""
    manage("migrate", "outbox_dispatcher", "0011")
    there = "SELECT to_regclass('messaging.dead_event') IS NOT NULL"
    assert query(empty_database_url, there) == [(False,)]
    behind = manage("check", "--database", "default", "--fail-level", "WARNING", code=1)
    assert "is behind this release: 20261208_dead_event, " in behind
    assert "manage.py migrate outbox_dispatcher --database default" in behind
    manage("migrate", "--check", code=1)
    manage("migrate")
    assert query(empty_database_url, there) == [(True,)]
    manage("migrate", "outbox_dispatcher", "0011")  # backwards: what a newer release has stays
    assert query(empty_database_url, there) == [(True,)]
    manage("migrate")
    assert await migrate(empty_database_url) == []


async def test_a_file_that_is_missing_brings_those_after_it_again(manage: Manage, empty_database_url: str) -> None:
    manage("migrate")
    query(empty_database_url, "DELETE FROM messaging.schema_migration WHERE name = '20261201_streams' RETURNING name")
    [(before,)] = query(empty_database_url, WHEN)
    manage("migrate", "outbox_dispatcher", "0007")
    manage("migrate", "outbox_dispatcher", "0008")
    later = (
        "SELECT count(*) FROM messaging.schema_migration WHERE name > '20261201_streams' AND name < 'a' AND applied_at"
    )
    assert query(empty_database_url, f"{later} <= '{before}'") == [(0,)], "their functions are in place again"
    assert await migrate(empty_database_url) == []


async def test_the_doorbell_comes_without_a_migration(manage: Manage, empty_database_url: str) -> None:
    doorbell = "SELECT count(*) FROM pg_trigger WHERE tgname = 'message_outbox_doorbell'"
    manage("migrate", TRIGGER="off")
    assert query(empty_database_url, doorbell) == [(0,)]
    assert "no issues" in manage("check", "--database", "default", TRIGGER="off")
    assert "is behind this release: doorbell" in manage("check", "--database", "default")
    manage("migrate")
    assert query(empty_database_url, doorbell) == [(1,)]
    assert await migrate(empty_database_url) == []


async def test_without_migrations_the_outbox_is_made_all_the_same(manage: Manage, empty_database_url: str) -> None:
    manage("migrate", "--run-syncdb", NOMIGRATIONS="1")
    assert await migrate(empty_database_url) == []


async def test_events_that_wait_are_not_dropped(manage: Manage, empty_database_url: str) -> None:
    manage("migrate")
    async with await psycopg.AsyncConnection.connect(empty_database_url, autocommit=True) as connection:
        await insert_events(connection, 1)
    refused = manage("migrate", "outbox_dispatcher", "zero", code=1)
    assert "the outbox holds events that were not published" in refused
    manage("flush", "--no-input")
    assert query(empty_database_url, "SELECT count(*) FROM messaging.message_outbox") == [(0,)]
    manage("migrate", "outbox_dispatcher", "zero")


async def test_sqlmigrate_prints_it(manage: Manage, empty_database_url: str) -> None:
    program = """
from django.core.management import call_command
for path in sorted(pathlib.Path(dispatcher.client.django.__path__[0]).glob("migrations/0*.py")):
    call_command("sqlmigrate", "outbox_dispatcher", path.stem)
"""
    printed = manage("shell", "-c", f"import pathlib, dispatcher.client.django\n{program}")
    psql(empty_database_url, text=printed[printed.index("BEGIN;") :])
    doorbell = "SELECT count(*) FROM pg_trigger WHERE tgname = 'message_outbox_doorbell'"
    assert query(empty_database_url, doorbell) == [(0,)]
    manage("migrate", "--fake")
    assert query(empty_database_url, doorbell) == [(1,)]
    assert await migrate(empty_database_url) == []


def test_another_database_is_no_place_for_it(manage: Manage, empty_database_url: str) -> None:
    refused = manage("check", ENGINE="sqlite", code=1)
    assert "outbox_dispatcher.E001" in refused
    assert "'default' is sqlite" in refused
    manage("check", ENGINE="sqlite", OTHER=empty_database_url)
    manage("migrate", "--database", "other", ENGINE="sqlite", OTHER=empty_database_url)
    manage("migrate", ENGINE="sqlite", OTHER=empty_database_url)  # nothing is made in sqlite


def test_a_database_without_outbox_and_a_changed_file_are_named(manage: Manage, empty_database_url: str) -> None:
    nothing = manage("check", "--database", "default", "--fail-level", "WARNING", code=1)
    assert "there is no outbox in 'default'" in nothing
    manage("migrate", "outbox_dispatcher", "0003")
    query(empty_database_url, "UPDATE messaging.schema_migration SET checksum = repeat('0', 64) RETURNING name")
    assert "was applied to this database with other contents" in manage("check", "--database", "default", code=1)
    refused = manage("migrate", code=1)
    assert "was applied to this database with other contents" in refused


def test_a_role_that_may_not_look_is_not_troubled(manage: Manage, empty_database_url: str) -> None:
    manage("migrate")
    role = f"app_{os.getpid()}"
    psql(empty_database_url, text=f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA messaging TO {role};")
    try:
        url = empty_database_url.replace("postgres@", f"{role}@", 1)
        assert "no issues" in manage("check", "--database", "default", DATABASE=url)
    finally:
        psql(empty_database_url, text=f"DROP OWNED BY {role}; DROP ROLE {role};")


RUNNER = "dispatcher.testing.django.Runner"


@pytest.mark.parametrize(
    "variables",
    [{}, {"DRIVER": "psycopg2"}, {"NOMIGRATIONS": "1"}, {"RUNNER": RUNNER, "DATABASE": "postgresql://x@y/shop"}],
)
def test_the_tests_of_a_project(manage: Manage, database_url: str, redis_url: str, variables: dict[str, str]) -> None:
    """TestCase, TransactionTestCase, two databases, the admin, dispatcher.testing: shop/tests.py."""
    shown = manage("test", "--noinput", OTHER=database_url, REDIS_URL=redis_url, **variables)
    assert "OK" in shown
    assert "Found 16 test(s)" in shown  # "Ran" leaves those out that are skipped, on Python 3.12.1


def test_the_tests_that_the_page_shows(manage: Manage, tmp_path: Path) -> None:
    _, shown = blocks("In Django", "python", page("how-to/test-your-code.md"))[:2]
    (tmp_path / "shown.py").write_text(shown)
    said = manage(
        "test", "--noinput", "--pattern", "shown.py", str(tmp_path), RUNNER=RUNNER, DATABASE="postgresql:///shop"
    )
    assert "Ran 3 tests" in said


def test_pytest_django_as_the_page_shows(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(blocks("In Django", "python", page("how-to/test-your-code.md"))[2])
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "from django.conf import settings\n"
        "from django.db import connection\n"
        "from shop.models import place_order\n"
        "from dispatcher.testing import published, relay_once\n"
        "def test_rolled_back(db):\n"
        "    place_order('ada')\n"
        "    assert [event.json() for event in published(connection)] == [{'to': 'ada'}]\n"
        "@pytest.mark.parametrize('turn', [1, 2])\n"
        "def test_committed(transactional_db, turn):\n"
        "    place_order('ada')\n"
        "    assert len(relay_once(connection, settings.REDIS_URL)) == 1\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
        "--rootdir",
        str(tmp_path),
    ]
    shown = subprocess.run(
        [*command, str(tmp_path)], capture_output=True, text=True, check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT), "DJANGO_SETTINGS_MODULE": "settings",
             "DATABASE": "postgresql:///shop"},
    )  # fmt: skip
    assert "3 passed" in shown.stdout, shown.stdout + shown.stderr


def test_what_the_page_shows(manage: Manage) -> None:
    for line in code("With Django", "sh", page("how-to/migrate.md")).splitlines():
        manage(*line.removeprefix("python manage.py ").split())
    assert '"dispatcher.client.django"' in code("With Django", "python", page("how-to/migrate.md"))


def test_an_import_for_add_event_loads_no_model() -> None:
    program = """
import sys
import dispatcher.client.django
loaded = [name for name in sys.modules if name.startswith("dispatcher.client.django.") or "admin" in name]
print(loaded, {"psycopg", "redis", "aiohttp", "sqlalchemy"} & set(sys.modules))
"""
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout == "[] set()\n"
