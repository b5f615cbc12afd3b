"""The schema: its committed dump, the rows it refuses, heap-only claims, pruning, the dead-letter copies."""

import uuid
from pathlib import Path

import psycopg
import pytest

from dispatcher.infra import sqlfiles
from tests import dump_schema
from tests.support.psql import psql

pytestmark = pytest.mark.both_versions

OUTBOX = "messaging.message_outbox"


async def insert(db: psycopg.AsyncConnection, **columns: object) -> int:
    """Insert one row, its plain columns given; returns its id. A value in a one-tuple is an SQL expression."""
    columns = {"event_type": "a", "aggregate_id": "b", "payload": "{}", **columns}
    values = [value[0] if isinstance(value, tuple) else psycopg.sql.quote(value) for value in columns.values()]
    row = await db.execute(f"INSERT INTO {OUTBOX} ({', '.join(columns)}) VALUES ({', '.join(values)}) RETURNING id")
    [(row_id,)] = await row.fetchall()
    assert isinstance(row_id, int)
    return row_id


async def ids(db: psycopg.AsyncConnection, table: str = OUTBOX, column: str = "id", where: str = "true") -> list[int]:
    rows = await db.execute(f"SELECT {column} FROM {table} WHERE {where} ORDER BY 1")
    return [row_id for (row_id,) in await rows.fetchall()]


async def listed_as_dead(db: psycopg.AsyncConnection) -> list[int]:
    """The outbox ids that are dead, by the rule in the migration's comment."""
    rows = await db.execute(
        "SELECT d.outbox_id FROM messaging.message_dlq AS d "
        "LEFT JOIN messaging.message_outbox AS o ON o.id = d.outbox_id "
        "WHERE d.replayed_at IS NULL AND coalesce(o.status, 'dead') = 'dead' ORDER BY 1"
    )
    return [row_id for (row_id,) in await rows.fetchall()]


async def bury(db: psycopg.AsyncConnection, row_id: int, error: str) -> None:
    """As the dispatcher does: claimed, then given up."""
    claim_id = str(uuid.uuid4())
    await db.execute(
        f"UPDATE {OUTBOX} SET status = 'picked', picked_at = clock_timestamp(), claim_id = %s WHERE id = %s",
        [claim_id, row_id],
    )
    params = {"ids": [row_id], "errors": [error], "places": [None], "claim_id": claim_id, "now": None}
    assert await (await db.execute(sqlfiles.load("settle_dead").encode(), params)).fetchall() == [(row_id,)]


def test_the_committed_dump_is_what_the_migrations_make(database_url: str) -> None:
    made = dump_schema.dump(database_url)
    assert made == dump_schema.SCHEMA.read_text(encoding="utf-8"), "run `make schema` and commit sql/schema.sql"


def test_the_files_run_under_plain_psql_any_number_of_times(empty_database_url: str) -> None:
    root = Path(__file__).parents[2]
    files = [*sorted((root / "sql" / "migrations").glob("*.sql")), root / "triggers" / "doorbell.sql"]
    for _ in range(2):
        for file in files:
            psql(empty_database_url, "-f", str(file))
    made = dump_schema.dump(empty_database_url)
    committed = dump_schema.SCHEMA.read_text(encoding="utf-8")
    tables = {line for line in committed.splitlines() if line.startswith("CREATE")} - {
        "CREATE TABLE messaging.schema_migration ("  # the bookkeeping of `dispatcher migrate`
    }
    assert {line for line in made.splitlines() if line.startswith("CREATE")} == tables
    psql(empty_database_url, "-f", str(root / "triggers" / "doorbell.down.sql"))
    assert "ring_doorbell" not in dump_schema.dump(empty_database_url)


POISON: list[tuple[dict[str, object], str]] = [
    ({"status": "done"}, "status_check"),
    ({"status": "picked"}, "picked_check"),
    ({"attempts": ("-1",)}, "attempts_check"),
    ({"attempts": ("2147483647",)}, "attempts_check"),
    ({"occurred_at": "infinity"}, "occurred_at_check"),
    ({"occurred_at": "-infinity"}, "occurred_at_check"),
    ({"occurred_at": "9999-12-31 00:00:00+00"}, "occurred_at_check"),
    ({"occurred_at": "0001-12-31 23:59:59+00 BC"}, "occurred_at_check"),
    ({"occurred_at": "294276-01-01 00:00:00+00"}, "occurred_at_check"),
    ({"next_run_at": "-infinity"}, "next_run_at_check"),
    ({"next_run_at": "4713-01-01 00:00:00+00 BC"}, "next_run_at_check"),
]
EDGES: list[dict[str, object]] = [
    {"occurred_at": "0001-01-01 00:00:00+00"},
    {"occurred_at": "9999-12-30 23:59:59.999999+00"},
    {"attempts": ("999999",)},
    {"payload": "null"},
    {"payload": '"ciphertext"', "headers": '{"traceparent": "00-1"}'},
    {"aggregate_id": ""},
    {"aggregate_id": "ünïcode \U0001f600"},
]


@pytest.mark.promise("refused-at-insert")
async def test_a_row_that_would_poison_a_batch_is_refused(db: psycopg.AsyncConnection) -> None:
    for columns, constraint in POISON:
        with pytest.raises(psycopg.errors.CheckViolation) as caught:
            await insert(db, **columns)
        assert caught.value.diag.constraint_name == f"message_outbox_{constraint}", columns


@pytest.mark.promise("refused-at-insert")
async def test_a_null_that_would_poison_a_batch_is_refused(db: psycopg.AsyncConnection) -> None:
    for column in (
        "event_type",
        "aggregate_id",
        "payload",
        "event_id",
        "message_id",
        "occurred_at",
        "next_run_at",
        "attempts",
    ):
        with pytest.raises(psycopg.errors.NotNullViolation) as caught:
            await insert(db, **{column: ("NULL",)})
        assert caught.value.diag.column_name == column


async def test_rows_at_the_edge_are_taken_and_can_be_claimed(db: psycopg.AsyncConnection) -> None:
    await insert(db, next_run_at="infinity")  # parked
    taken = [await insert(db, **columns) for columns in EDGES]
    params = {
        "now": None,
        "dispatcher": 1,
        "claim_id": str(uuid.uuid4()),
        "floor": None,
        "mark": None,
        "after_time": "-infinity",
        "after_id": 0,
        "slots": 256,
        "limit": 100,
        "layout": "",
        "most_bytes": 1_048_576,
    }
    rows = await (await db.execute(sqlfiles.load("claim").encode(), params)).fetchall()
    assert sorted(row[0] for row in rows) == taken


@pytest.mark.promise("refused-at-insert")
async def test_an_update_that_would_poison_a_batch_is_refused(db: psycopg.AsyncConnection) -> None:
    row_id = await insert(db)
    for columns, constraint in POISON:
        if columns == {"status": "picked"}:  # by itself: whoever takes claims over judges no time
            continue
        [(column, value)] = columns.items()
        new = value[0] if isinstance(value, tuple) else psycopg.sql.quote(value)
        with pytest.raises(psycopg.errors.CheckViolation) as caught:
            await db.execute(f"UPDATE {OUTBOX} SET {column} = {new} WHERE id = {row_id}")
        assert caught.value.diag.constraint_name == f"message_outbox_{constraint}", columns


async def test_a_refusal_shows_nothing_of_the_row(db: psycopg.AsyncConnection) -> None:
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        await insert(db, attempts=("-1",), payload='"ciphertext"')
    assert "ciphertext" not in str(caught.value)


@pytest.mark.promise("event-id")
async def test_an_event_is_stopped_at_its_second_insert(db: psycopg.AsyncConnection) -> None:
    event_id = str(uuid.uuid4())
    await insert(db, event_id=event_id)
    with pytest.raises(psycopg.errors.UniqueViolation):
        await insert(db, event_id=event_id)


async def insert_many(db: psycopg.AsyncConnection, rows: int, payload: str = "{}") -> None:
    await db.execute(
        f"INSERT INTO {OUTBOX} (event_type, aggregate_id, payload) "
        "SELECT 'order.created', md5(n::text), %s::jsonb FROM generate_series(1, %s) AS n",
        [payload, rows],
    )


async def test_slots_cover_what_a_byte_can_say(db: psycopg.AsyncConnection) -> None:
    await insert_many(db, 5000)
    rows = await db.execute(f"SELECT count(DISTINCT slot), min(slot), max(slot) FROM {OUTBOX}")
    assert await rows.fetchone() == (256, 0, 255)


async def test_no_index_knows_of_what_a_claim_changes(db: psycopg.AsyncConnection) -> None:
    changed = {"status", "picked_at", "picked_by", "claim_id", "stream_id"}
    rows = await db.execute(
        f"SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = '{OUTBOX}'::regclass AND indisvalid"
    )
    definitions = [definition for (definition,) in await rows.fetchall()]
    assert len(definitions) == 5
    for definition in definitions:
        columns = definition.replace("(", " ").replace(")", " ").replace(",", " ").split()
        assert not changed & set(columns), definition


async def test_every_claim_is_a_heap_only_update(db: psycopg.AsyncConnection) -> None:
    for size in (0, 60, 250, 700, 1500):
        await db.execute(f"TRUNCATE {OUTBOX}")
        await insert_many(db, 1000, f'{{"ciphertext": "{"x" * size}"}}')
        async with db.transaction():
            await db.execute(
                f"UPDATE {OUTBOX} SET status = 'picked', picked_at = clock_timestamp(), picked_by = 1, "
                "claim_id = gen_random_uuid(), stream_id = '1763762334123-12'"
            )
            rows = await db.execute(
                "SELECT pg_stat_get_xact_tuples_updated(oid), pg_stat_get_xact_tuples_hot_updated(oid) "
                "FROM pg_class WHERE oid = %s::regclass",
                [OUTBOX],
            )
            [(updated, heap_only)] = await rows.fetchall()
            assert updated == heap_only >= 1000, size


async def test_prune_deletes_what_is_settled_and_old_and_nothing_else(db: psycopg.AsyncConnection) -> None:
    old, new = ("now() - interval '8 days'",), ("now() - interval '6 days'",)
    gone = [
        await insert(db, status="sent", occurred_at=old, sent_at=old),
        await insert(db, status="sent", occurred_at=new, sent_at=old),
        await insert(db, status="sent", occurred_at=old),
        await insert(db, status="dead", occurred_at=old),
        await insert(db, status="dead", occurred_at=old, picked_at=old),
    ]
    kept = [
        await insert(db, status="sent", occurred_at=old, sent_at=new),
        await insert(db, status="sent", occurred_at=new),
        await insert(db, status="dead", occurred_at=new),
        await insert(db, status="dead", occurred_at=old, picked_at=new),
        await insert(db, status="pending", occurred_at=old),
        await insert(db, status="retry", occurred_at=old, sent_at=old),
        await insert(db, status="picked", occurred_at=old, picked_at=old, sent_at=old),
    ]
    notices: list[str | None] = []
    db.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    await db.execute("CALL messaging.prune_message_outbox(INTERVAL '7 days')")
    assert await ids(db) == kept
    assert notices == ["prune_message_outbox: 5 rows deleted, 3 sent and 2 dead, older than 7 days"]
    assert await listed_as_dead(db) == gone[3:]  # a copy outlives its row, also of a row that was marked dead by hand


async def test_prune_of_the_dead_letter_queue_goes_by_the_time_of_death(db: psycopg.AsyncConnection) -> None:
    for age in ("31 days", "29 days"):
        row_id = await insert(db)
        await bury(db, row_id, "refused")
        await db.execute(
            "UPDATE messaging.message_dlq SET died_at = now() - %s::interval WHERE outbox_id = %s", [age, row_id]
        )
    await db.execute("CALL messaging.prune_message_dlq(INTERVAL '30 days')")
    assert await ids(db, "messaging.message_dlq", "outbox_id") == [row_id]


def test_the_runbooks_cron_line_works_in_one_psql(database_url: str) -> None:
    said = psql(
        database_url,
        "-c",
        "CALL messaging.prune_message_outbox(INTERVAL '7 days'); CALL messaging.prune_message_dlq(INTERVAL '30 days');",
    )
    assert "prune_message_outbox: 0 rows deleted" in said
    assert "prune_message_dlq: 0 rows deleted" in said


async def test_prune_refuses_an_interval_that_makes_no_sense(db: psycopg.AsyncConnection) -> None:
    for procedure in ("prune_message_outbox", "prune_message_dlq"):
        for interval in ("'-1 day'", "NULL"):
            with pytest.raises(psycopg.errors.InvalidParameterValue, match="needs an interval of 0 or more"):
                await db.execute(f"CALL messaging.{procedure}({interval})")


@pytest.mark.promise("replay")
async def test_a_plain_update_is_a_full_replay_and_a_second_death_renews_the_copy(db: psycopg.AsyncConnection) -> None:
    row_id = await insert(db)
    await bury(db, row_id, "first")
    assert await listed_as_dead(db) == [row_id]
    # The runbook's words.
    await db.execute(
        "UPDATE messaging.message_outbox SET status = 'pending', attempts = 0, last_error = NULL "
        "WHERE status = 'dead' AND occurred_at > NOW() - INTERVAL '1 hour'"
    )
    assert await listed_as_dead(db) == []
    await bury(db, row_id, "second")
    assert await listed_as_dead(db) == [row_id]
    copies = await db.execute("SELECT outbox_id, last_error, attempts, replay_count FROM messaging.message_dlq")
    assert await copies.fetchall() == [(row_id, "second", 1, 1)]


async def test_a_replayed_event_stays_off_the_list_when_its_row_is_pruned(db: psycopg.AsyncConnection) -> None:
    row_id = await insert(db)
    await bury(db, row_id, "first")
    await db.execute(
        "UPDATE messaging.message_outbox SET status = 'pending', attempts = 0, last_error = NULL, picked_at = NULL "
        "WHERE status = 'dead'"
    )
    await db.execute(f"UPDATE {OUTBOX} SET status = 'sent', sent_at = now() - interval '8 days'")
    await db.execute("CALL messaging.prune_message_outbox(INTERVAL '7 days')")
    assert await ids(db) == []
    assert await listed_as_dead(db) == []
    assert await ids(db, "messaging.message_dlq", "outbox_id", "replayed_at IS NOT NULL AND replay_count = 1") == [
        row_id
    ]


async def test_a_dead_event_stays_on_the_list_when_its_row_is_pruned(db: psycopg.AsyncConnection) -> None:
    row_id = await insert(db, occurred_at=("now() - interval '9 days'",))
    await bury(db, row_id, "refused")
    await db.execute(f"UPDATE {OUTBOX} SET picked_at = now() - interval '8 days'")
    await db.execute("CALL messaging.prune_message_outbox(INTERVAL '7 days')")
    assert await ids(db) == []
    assert await listed_as_dead(db) == [row_id]
    assert await ids(db, "messaging.message_dlq", "outbox_id", "last_error = 'refused'") == [row_id]
