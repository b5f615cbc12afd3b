"""`dispatcher demo --seed-only`: sample rows as SQL that psql takes, and by COPY."""

from collections import Counter
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result
from psycopg.rows import dict_row

from dispatcher.commands.demo import demo
from dispatcher.core.errors import Misconfigured, Unreachable
from dispatcher.demo.samples import STATUSES, SampleRow
from dispatcher.demo.seed import seed
from dispatcher.embedded import free_port
from tests.support.psql import psql


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(demo, ["--seed-only", *arguments], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result


def rows(url: str) -> list[dict[str, Any]]:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute("SELECT * FROM messaging.message_outbox ORDER BY id").fetchall()


def test_sql_for_psql(database_url: str) -> None:
    statements = run("--rows", "250", "--seed", "7").stdout
    assert statements == run("--rows", "250", "--seed", "7").stdout
    psql(database_url, text=statements)
    written = rows(database_url)
    assert len(written) == 250
    assert set(Counter(row["status"] for row in written)) == set(STATUSES)
    assert {row["event_type"] for row in written} == {"order.created", "invoice.generated", "user.registered"}
    assert {row["status"] for row in written if row["sent_at"]} == {"sent"}
    assert {row["status"] for row in written if row["last_error"]} == {"retry", "dead"}


def test_copy_writes_the_same_rows_in_parts(database_url: str) -> None:
    count = 40_001
    said = run("--rows", str(count), "--seed", "7", "--status", "pending", "--dsn", database_url)
    assert said.stderr == "20,000 of 40,001 rows\n40,000 of 40,001 rows\n40,001 of 40,001 rows\n"
    assert said.stdout == f"Copied {count:,} rows.\n"
    copied = rows(database_url)
    assert Counter(row["status"] for row in copied) == {"pending": count}
    assert len({row["event_id"] for row in copied}) == count
    with psycopg.connect(database_url) as connection:
        connection.execute("TRUNCATE messaging.message_outbox")
    psql(database_url, text=run("--rows", "300", "--seed", "7", "--status", "pending").stdout)
    same = ("aggregate_type", "aggregate_id", "event_type", "payload", "attempts")
    assert [[row[name] for name in same] for row in rows(database_url)] == [
        [row[name] for name in same] for row in copied[:300]
    ]


def test_what_copy_escapes_arrives(database_url: str) -> None:
    odd = SampleRow("a\tb", "\\N", "c\\d\n", r'{"quote": "\"\\ \n", "text": "ä"}', "pending", 0, 0)
    seed(database_url, iter([odd]), 1, lambda rows: None)
    [row] = rows(database_url)
    assert (row["aggregate_type"], row["aggregate_id"], row["event_type"]) == ("a\tb", "\\N", "c\\d\n")
    assert row["payload"] == {"quote": '"\\ \n', "text": "ä"}


def test_a_database_without_the_table_is_named(empty_database_url: str) -> None:
    with pytest.raises(Misconfigured, match="run `dispatcher migrate` first"):
        run("--database-url", empty_database_url)


def test_a_database_that_is_away_is_named() -> None:
    with pytest.raises(Unreachable, match="nothing listens there"):
        run("--database-url", f"postgresql://127.0.0.1:{free_port()}/app")


def test_no_database_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://127.0.0.1:{free_port()}/app")
    assert run("--rows", "1").stdout.startswith("BEGIN;\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rows", "3"], "--rows needs --seed-only"),
        (["--status", "dead"], "--status needs --seed-only"),
        (["--seed-only", "--rate", "3"], "--rate does nothing with --seed-only"),
        (["--seed-only", "--json"], "--json does nothing with --seed-only"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(demo, arguments)
    assert (result.exit_code, words in result.output) == (2, True)
