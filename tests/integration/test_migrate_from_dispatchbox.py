"""sql/migrate_from_dispatchbox.sql and dispatchbox_view.sql, on the tables of both generations of Dispatchbox."""

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.support.psql import client_program, psql
from tests.support.readme import ROOT, blocks

SQL = Path(__file__).parents[2] / "sql"
MOVE, VIEW = SQL / "migrate_from_dispatchbox.sql", SQL / "dispatchbox_view.sql"
GUIDE = (ROOT / "docs" / "how-to" / "migrate-from-dispatchbox.md").read_text(encoding="utf-8")
# The columns its INSERTs, its queries and its API name; a worker of the second generation marks what it works on.
FIRST = """
CREATE TABLE outbox_event (
    id bigserial PRIMARY KEY, aggregate_type text NOT NULL, aggregate_id text NOT NULL, event_type text NOT NULL,
    payload jsonb NOT NULL, status text NOT NULL DEFAULT 'pending', attempts int NOT NULL DEFAULT 0,
    next_run_at timestamptz NOT NULL DEFAULT now(), created_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX idx_outbox_due ON outbox_event (next_run_at) WHERE status IN ('pending', 'retry');
"""
SECOND = FIRST.replace("attempts int", "claim_token text, attempts int").replace("'retry')", "'retry', 'processing')")
INSERT = """
INSERT INTO outbox_event (aggregate_type, aggregate_id, event_type, payload, status, attempts, next_run_at, created_at)
SELECT 'order', (1000 + i)::text, 'order.created', jsonb_build_object('orderId', i), {status}, {attempts},
       now() - make_interval(secs => i % 600), now() - INTERVAL '1 hour'
FROM generate_series(1, {rows}) AS i
"""
STATUSES = "(ARRAY['pending', 'retry', 'done', 'dead'])[1 + i % 4]"


def insert(connection: psycopg.Connection[Any], rows: int, status: str = STATUSES, attempts: str = "i % 6") -> None:
    """Rows as its generator makes them."""
    connection.execute(INSERT.format(rows=rows, status=status, attempts=attempts).encode())


def query(connection: psycopg.Connection[Any], text: str) -> list[dict[str, Any]]:
    return connection.cursor(row_factory=dict_row).execute(text.encode()).fetchall()


def outbox(connection: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    return query(connection, "SELECT * FROM messaging.message_outbox ORDER BY id")


def move(url: str, **options: object) -> str:
    """Run the script; what it says."""
    settings = " ".join(f"-c dispatcher.dispatchbox_{name}={value}" for name, value in options.items())
    before = os.environ.get("PGOPTIONS")
    os.environ["PGOPTIONS"] = settings
    try:
        return psql(url, "-f", str(MOVE))
    finally:
        if before is None:
            del os.environ["PGOPTIONS"]
        else:
            os.environ["PGOPTIONS"] = before


@pytest.fixture(params=[FIRST, SECOND], ids=["first generation", "second generation"])
def old(request: pytest.FixtureRequest, database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a database with our schema and Dispatchbox's table."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(request.param)
        yield connection


@pytest.mark.both_versions
@pytest.mark.promise("dispatchbox")
def test_every_row_is_moved_with_its_status(old: psycopg.Connection[Any], database_url: str) -> None:
    insert(old, 200)
    before = query(old, "SELECT * FROM outbox_event ORDER BY next_run_at, id")
    assert "rows moved: 200, all of them" in move(database_url, batch=7)
    after = {row["aggregate_id"]: row for row in outbox(old)}
    assert query(old, "SELECT * FROM outbox_event") == []
    assert len(after) == 200
    for row in before:
        new = after[row["aggregate_id"]]
        same = ("aggregate_type", "event_type", "payload", "next_run_at")
        assert {name: new[name] for name in same} == {name: row[name] for name in same}
        assert new["occurred_at"] == row["created_at"]
        done = row["status"] == "done"
        assert new["status"] == ("sent" if done else row["status"])
        assert new["attempts"] == (max(row["attempts"] - 1, 0) if done else row["attempts"])
        assert (new["sent_at"], new["picked_at"]) == (row["created_at"] if done else None, None)
    # The index on which dead events are counted and listed has the dead ones only.
    assert query(old, "SELECT DISTINCT status FROM messaging.message_outbox WHERE settled AND sent_at IS NULL") == [
        {"status": "dead"}
    ]
    copies = query(old, "SELECT * FROM messaging.message_dlq")
    assert {row["event_id"] for row in copies} == {row["event_id"] for row in after.values() if row["status"] == "dead"}
    assert {row["last_error"] for row in copies} == {"dead in Dispatchbox, which kept no error"}
    waiting = [row["aggregate_id"] for row in before if row["status"] in ("pending", "retry")]
    assert [row["aggregate_id"] for row in outbox(old)][: len(waiting)] == waiting  # first, and in their order


def test_it_can_be_run_again_and_a_row_from_a_backup_comes_once(
    old: psycopg.Connection[Any], database_url: str
) -> None:
    insert(old, 20)
    old.execute("CREATE TABLE backup AS TABLE outbox_event")
    assert "rows moved: 20" in move(database_url)
    moved = outbox(old)
    assert "rows moved: 0" in move(database_url)
    old.execute("INSERT INTO outbox_event SELECT * FROM backup")
    assert "rows moved: 20" in move(database_url)
    assert outbox(old) == moved
    assert len(query(old, "SELECT * FROM messaging.message_dlq")) == 5


def test_odd_rows_are_moved_and_unknown_ones_stay(old: psycopg.Connection[Any], database_url: str) -> None:
    insert(old, 1, "'processing'", "0")
    insert(old, 1, "'processing'", "3")
    insert(old, 1, "'pending'", "-5")
    insert(old, 1, "'retry'", "2000000000")
    insert(old, 1, "'mine'")
    old.execute("UPDATE outbox_event SET next_run_at = '-infinity', created_at = 'infinity' WHERE attempts = -5")
    said = move(database_url)
    assert [(row["status"], row["attempts"]) for row in outbox(old)] == [
        ("pending", 0), ("retry", 999_999), ("pending", 0), ("retry", 3),
    ]  # fmt: skip
    assert "left with the status mine: 1" in said
    assert [row["status"] for row in query(old, "SELECT status FROM outbox_event")] == ["mine"]


def test_a_row_that_somebody_holds_is_left_for_the_next_time(old: psycopg.Connection[Any], database_url: str) -> None:
    insert(old, 3, "'pending'")
    with psycopg.connect(database_url) as holder:
        holder.execute("SELECT FROM outbox_event WHERE id = 2 FOR UPDATE")
        assert "left with the status pending: 1" in move(database_url)
    assert "rows moved: 1" in move(database_url)
    assert len(outbox(old)) == 3


@pytest.mark.promise("dispatchbox")
def test_applications_may_go_on_inserting(old: psycopg.Connection[Any], database_url: str) -> None:
    insert(old, 2_000)
    enough = threading.Event()
    written: list[int] = []

    def produce() -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            while not enough.is_set():
                insert(connection, 1, "'pending'", "0")
                written.append(1)

    producer = threading.Thread(target=produce)
    with psycopg.connect(database_url) as late:
        insert(late, 1, "'pending'", "0")  # takes its id now and commits when later ones are moved
        producer.start()
        move(database_url, batch=100)
    enough.set()
    producer.join()
    move(database_url)
    assert query(old, "SELECT * FROM outbox_event") == []
    rows = outbox(old)
    assert len(rows) == 2_000 + len(written) + 1
    assert len({row["event_id"] for row in rows}) == len(rows)
    assert Counter(row["status"] for row in rows)["sent"] == 500


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        ("DROP TABLE outbox_event", "there is no table outbox_event here"),
        ("DROP SCHEMA messaging CASCADE", "run `dispatcher migrate` first"),
    ],
)
def test_what_is_missing_is_named(prepare: str, words: str, old: psycopg.Connection[Any], database_url: str) -> None:
    old.execute(prepare.encode())
    with pytest.raises(AssertionError, match=words):
        move(database_url)


def test_a_view_takes_the_place_of_the_table(old: psycopg.Connection[Any], database_url: str) -> None:
    application = f"app_{os.getpid()}"
    old.execute(f"CREATE ROLE {application}".encode())
    old.execute(f"GRANT INSERT, SELECT, UPDATE ON outbox_event TO {application}".encode())
    old.execute(f"GRANT USAGE ON SEQUENCE outbox_event_id_seq TO {application}".encode())
    try:
        insert(old, 4)
        move(database_url)
        insert(old, 1, "'pending'", "0")
        for _ in range(2):
            psql(database_url, "-f", str(VIEW))
        assert "rows moved: 1" in move(database_url, table="outbox_event_dispatchbox")
        assert "is a view" in move(database_url)
        with psycopg.connect(database_url) as connection:
            connection.execute(f"SET ROLE {application}".encode())
            row = connection.execute(
                "INSERT INTO outbox_event (aggregate_type, aggregate_id, event_type, payload) "
                "VALUES ('user', 'U1', 'user.registered', '{}') RETURNING id, status, attempts, created_at"
            ).fetchone()
            connection.commit()
            connection.execute(f"SET ROLE {application}".encode())
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("SELECT * FROM outbox_event FOR UPDATE SKIP LOCKED")
        last = outbox(old)[-1]
        assert row is not None
        assert row == (last["id"], "pending", 0, last["occurred_at"])
        assert (last["aggregate_id"], last["event_id"] is not None, last["settled"]) == ("U1", True, False)
    finally:
        old.execute(f"DROP OWNED BY {application}".encode())
        old.execute(f"DROP ROLE {application}".encode())


@pytest.mark.parametrize("definition", [FIRST, SECOND], ids=["first generation", "second generation"])
def test_the_steps_of_the_guide(definition: str, empty_database_url: str) -> None:
    migrate, move_rows, view, move_rest = blocks("The steps", "sh", GUIDE)
    programs = [str(Path(sys.executable).parent), str(client_program("psql").parent), os.environ["PATH"]]
    env = {**os.environ, "DATABASE_URL": empty_database_url, "PATH": os.pathsep.join(programs)}

    def step(script: str) -> None:
        done = subprocess.run(
            ["/bin/sh", "-ec", script], cwd=SQL.parent, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(definition.encode())
        insert(connection, 8)
        step(migrate)
        step(move_rows)
        insert(connection, 1, "'pending'", "0")
        step(view)
        connection.execute(
            "INSERT INTO outbox_event (aggregate_type, aggregate_id, event_type, payload) VALUES ('a', 'b', 'c', '{}')"
        )
        step(move_rest)
        assert dict(Counter(row["status"] for row in outbox(connection))) == {
            "pending": 4, "retry": 2, "sent": 2, "dead": 2,
        }  # fmt: skip
