"""`dispatcher replay`: what it takes, what it leaves alone, what it asks, and that consumers get the events again."""

import io
import json
import os
import pty
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from dispatcher.cli import main
from dispatcher.core.errors import Misconfigured
from dispatcher.core.events import Settled
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.replay import ReplaySession, Selection
from tests.support.command import HearCommand
from tests.support.rows import insert_events, read_stream, read_table, statuses

OTHER = "7c8b6a9e-3b0f-4f0e-9a44-0c0f5d1f8a11"
AT = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def replay(heard: HearCommand) -> HearCommand:
    """The command's exit code, standard output and standard error. Nobody is there to ask."""
    return partial(heard, "replay")


async def pending(db: psycopg.AsyncConnection[Any]) -> list[int]:
    return [row["id"] for row in await read_table(db) if row["status"] == "pending"]


async def test_a_replayed_row_is_as_new(replay, db):
    await insert_events(
        db,
        status="sent",
        sent_at=AT,
        attempts=3,
        stream_id="5-1",
        picked_at=AT,
        picked_by=7,
        claim_id="7c8b6a9e-3b0f-4f0e-9a44-0c0f5d1f8a11",
        next_run_at=AT,
        headers='{"traceparent": "x"}',
    )
    [before] = await read_table(db)
    assert await replay("--all", "--yes") == (
        0,
        "Sent rows that match: 1, sent from 2025-06-01T12:00:00.000000Z to 2025-06-01T12:00:00.000000Z\n"
        "Replayed 1 row.\n",
        "1 of 1 row\n",
    )
    [after] = await read_table(db)
    changed = {name for name in after if after[name] != before[name]}
    nothing = ("sent_at", "stream_id", "picked_by", "claim_id")
    assert changed == {"status", "attempts", "next_run_at", "settled", *nothing}
    assert (after["status"], after["attempts"]) == ("pending", 0)
    assert [after[name] for name in nothing] == [None] * 4
    assert timedelta(0) < datetime.now(UTC) - after["next_run_at"] < timedelta(minutes=5)


@pytest.mark.promise("replay")
async def test_consumers_get_the_same_events_again_in_the_same_order(replay, db, redis, dispatcher):
    async with dispatcher(tick_ms=20) as running:
        ids = await insert_events(db, 50)
        await running.tap.add_up(Settled, sent=50)
        first = [entry["event_id"] for entry in await read_stream(redis)]
        code, out, _ = await replay("--since", "1h", "--yes")
        assert (code, out.splitlines()[-1]) == (0, "Replayed 50 rows.")
        await running.tap.add_up(Settled, sent=50)
    entries = await read_stream(redis)
    assert [entry["event_id"] for entry in entries] == first * 2
    assert [row["stream_id"] for row in await read_table(db)] == [entry["stream_id"] for entry in entries[50:]]
    assert [row["id"] for row in await read_table(db)] == ids


async def test_json(replay, db):
    await insert_events(db, 3, status="sent", sent_at=AT)
    at = "2025-06-01T12:00:00.000000Z"
    found = {"matched": 3, "oldest": at, "newest": at}
    code, out, err = await replay("--all", "--dry-run", "--json")
    assert (code, json.loads(out), err) == (0, {"dry_run": True} | found | {"replayed": 0, "skipped": 0}, "")
    assert await statuses(db) == {"sent": 3}
    code, out, _ = await replay("--all", "--yes", "--json")
    assert (code, json.loads(out)) == (0, {"dry_run": False} | found | {"replayed": 3, "skipped": 0})
    code, out, _ = await replay("--all", "--yes", "--json")
    assert (code, json.loads(out)["matched"], json.loads(out)["oldest"]) == (0, 0, None)


async def test_only_sent_rows_are_taken(replay, db):
    for status in ("pending", "retry", "dead", "sent"):
        await insert_events(db, status=status)
    await insert_events(db, status="picked", picked_at=AT)
    before = await read_table(db)
    assert (await replay("--all", "--yes"))[1] == "Sent rows that match: 1\nReplayed 1 row.\n"
    after = await read_table(db)
    assert [row["status"] for row in after] == ["pending", "retry", "dead", "pending", "picked"]
    assert [row for row in after if row["id"] != 4] == [row for row in before if row["id"] != 4]


async def test_each_option_and_all_of_them_together(replay, db):
    made = []
    for event_type in ("order.created", "order.paid"):
        for aggregate_type in ("order", "invoice"):
            for minutes in (0, 10):
                made += await insert_events(
                    db,
                    2,
                    status="sent",
                    event_type=event_type,
                    aggregate_type=aggregate_type,
                    sent_at=AT + timedelta(minutes=minutes),
                )
    rows = await read_table(db)
    chosen: list[tuple[list[str], Callable[[dict[str, Any]], bool]]] = [
        (["--event-type", "order.paid"], lambda row: row["event_type"] == "order.paid"),
        (["--event-type", "order.paid", "--event-type", "order.created"], lambda row: True),
        (["--aggregate-type", "invoice"], lambda row: row["aggregate_type"] == "invoice"),
        (["--aggregate-id", "a2"], lambda row: row["aggregate_id"] == "a2"),
        (["--event-id", str(rows[3]["event_id"])], lambda row: row == rows[3]),
        ([f"--event-id={rows[n]['event_id']}" for n in (3, 9)], lambda row: row in (rows[3], rows[9])),
        (["--since", "2025-06-01T12:10:00Z"], lambda row: row["sent_at"] > AT),
        (["--since", "2025-06-01T14:10:00+02:00"], lambda row: row["sent_at"] > AT),
        (["--since", "2025-06-01 12:10"], lambda row: row["sent_at"] > AT),
        (["--until", "2025-06-01T12:10:00Z"], lambda row: row["sent_at"] == AT),
        (["--since", "2025-06-01", "--until", "2025-06-02"], lambda row: True),
        (["--since", "36500d", "--until", "2h"], lambda row: True),
        (["--since", "2h"], lambda row: False),
        (["--event-type", "nothing"], lambda row: False),
        (
            ["--event-type=order.paid", "--aggregate-type=order", "--aggregate-id=a1", "--until=2025-06-01T12:10:00Z"],
            lambda row: row["id"] == made[8],
        ),
    ]  # fmt: skip
    for options, wanted in chosen:
        expected = [row["id"] for row in rows if wanted(row)]
        code, out, _ = await replay(*options, "--dry-run")
        assert code == 0
        said = f"Sent rows that match: {len(expected)}," if expected else "No sent row matches."
        assert out.startswith(said), options
        assert await pending(db) == []  # a dry run changes nothing
        await replay(*options, "--yes")
        assert await pending(db) == expected, options
        await db.execute("UPDATE messaging.message_outbox SET status = 'sent'")
        for row in rows:
            await db.execute(
                "UPDATE messaging.message_outbox SET sent_at = %s WHERE id = %s", [row["sent_at"], row["id"]]
            )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "Choose the rows (--since 2h, --event-type ...), or --all for every sent row."),
        (["--yes"], "Choose the rows"),
        (["--all", "--since", "2h", "--yes"], "--all takes every sent row"),
        (["--all"], "There is no terminal to ask on: give --yes, or --dry-run to look first."),
        (["--since", "yesterday", "--yes"], "'yesterday' is neither ISO 8601"),
        (["--since", "99999999999w", "--yes"], "is neither ISO 8601"),
        (["--since", "0001-01-01T00:00:00+10:00", "--yes"], "is neither ISO 8601"),
        (["--event-id", "7", "--yes"], "'7' is not a valid UUID"),
        (["--since", "1h", "--until", "2h", "--yes"], ") must be earlier than --until ("),
    ],
)
async def test_bad_usage_changes_nothing(replay, db, monkeypatch, arguments, complaint):
    await insert_events(db, status="sent")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, out, err = await replay(*arguments)
    assert (code, out) == (2, "")
    assert complaint in re.sub(r"\s+", " ", err)
    assert await statuses(db) == {"sent": 1}


@pytest.mark.promise("replay")
async def test_what_changed_since_it_was_found_is_skipped_and_counted(database_url, db):
    ids = await insert_events(db, 6, status="sent", sent_at=AT)
    held, replayed, again, pruned, *left = ids
    async with ReplaySession(PostgresTarget(database_url, "test")) as run:
        found = await run.find(Selection(until=timedelta(hours=1)))
        assert list(found.ids) == ids
        await db.execute("UPDATE messaging.message_outbox SET status = 'pending' WHERE id = %s", [replayed])
        await db.execute("UPDATE messaging.message_outbox SET sent_at = clock_timestamp() WHERE id = %s", [again])
        await db.execute("DELETE FROM messaging.message_outbox WHERE id = %s", [pruned])
        await db.execute("BEGIN")
        await db.execute("SELECT FROM messaging.message_outbox WHERE id = %s FOR UPDATE", [held])
        await run.put_back(found, lambda rows: None)
        await db.execute("COMMIT")
    assert (run.replayed, run.skipped) == (2, 4)
    assert await pending(db) == sorted([replayed, *left])


@pytest.mark.promise("clock")
async def test_rows_that_were_sent_before_the_clock_went_back_are_found_and_put_back_once(database_url, db):
    ahead = datetime.now(UTC) + timedelta(hours=1)
    first, again = await insert_events(db, 2, status="sent", sent_at=ahead, claim_id=OTHER)
    async with ReplaySession(PostgresTarget(database_url, "test")) as run:
        found = await run.find(Selection())
        assert list(found.ids) == [first, again]
        await db.execute(  # somebody else replayed it, and it is sent, all after the clock went back
            "UPDATE messaging.message_outbox SET sent_at = clock_timestamp(), claim_id = gen_random_uuid() "
            "WHERE id = %s",
            [again],
        )
        await run.put_back(found, lambda rows: None)
    assert (run.replayed, run.skipped) == (1, 1)
    assert await pending(db) == [first]


async def test_it_goes_in_batches_with_progress(database_url, db):
    await insert_events(db, 95, status="sent", sent_at=AT)
    batches: list[int] = []
    async with ReplaySession(PostgresTarget(database_url, "test")) as run:
        await run.put_back(await run.find(Selection()), batches.append, batch_rows=10)
    assert (run.replayed, batches) == (95, [10] * 9 + [5])
    assert await statuses(db) == {"pending": 95}


async def test_progress_is_said_where_there_is_no_terminal(replay, db):
    await db.execute("SET dispatcher.doorbell = off")
    await insert_events(db, 2_500, status="sent", sent_at=AT)
    code, out, err = await replay("--all", "--yes")
    assert (code, out.splitlines()[1:]) == (0, ["Replayed 2,500 rows."])
    assert err.splitlines() == [f"{done:,} of 2,500 rows" for done in (1000, 2000, 2500)]


async def test_a_connection_that_breaks_says_how_to_go_on(replay, db):
    await db.execute("SET dispatcher.doorbell = off")
    ids = await insert_events(db, 1_025, status="sent", sent_at=AT)
    await db.execute(
        """
        CREATE FUNCTION break_off() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_terminate_backend(pg_backend_pid());
            RETURN NEW;
        END $$;
        """
    )
    await db.execute(
        "CREATE TRIGGER break_off BEFORE UPDATE ON messaging.message_outbox "
        f"FOR EACH ROW WHEN (NEW.id = {ids[1_015]}) EXECUTE FUNCTION break_off()"
    )
    code, _, err = await replay("--since", "2025-06-01", "--yes")
    assert code == 1
    assert "broke" in err
    [until] = re.findall(r"Stopped after 1,000 of 1,025 rows\. To go on: the same options, and --until (\S+),", err)
    await db.execute("DROP TRIGGER break_off ON messaging.message_outbox")
    await db.execute(  # the first batch is sent again already
        "UPDATE messaging.message_outbox SET status = 'sent', sent_at = clock_timestamp() WHERE status = 'pending'"
    )
    code, out, _ = await replay("--since", "2025-06-01", "--until", until, "--yes")
    assert (code, out.splitlines()[-1]) == (0, "Replayed 25 rows.")
    assert await pending(db) == ids[1_000:]


async def test_a_role_that_may_not_is_told_what_to_do(replay, db, database_url, monkeypatch):
    name = f"reader_{os.getpid()}"
    await db.execute(f"CREATE ROLE {name}")
    try:
        await db.execute(f"GRANT USAGE ON SCHEMA messaging TO {name}")
        await db.execute(f"GRANT SELECT ON messaging.message_outbox TO {name}")
        await insert_events(db, status="sent", sent_at=AT)
        code, _, err = await replay("--all", "--yes", "--database-url", f"{database_url}?options=-crole%3D{name}")
        assert code == 2
        assert "grant it the role outbox_dispatcher" in err
        assert await statuses(db) == {"sent": 1}
    finally:
        await db.execute(f"DROP OWNED BY {name}")
        await db.execute(f"DROP ROLE {name}")


async def test_a_database_without_tables_says_migrate(empty_database_url):
    with pytest.raises(Misconfigured, match="run `dispatcher migrate` first"):
        async with ReplaySession(PostgresTarget(empty_database_url, "test")):
            pass


@pytest.mark.parametrize(("answer", "code", "left"), [("y", 0, "pending"), ("n", 1, "sent"), ("", 1, "sent")])
async def test_a_person_is_asked(replay, db, monkeypatch, answer, code, left):
    await insert_events(db, status="sent", sent_at=AT)
    keyboard, terminal = pty.openpty()
    with os.fdopen(keyboard, "wb", buffering=0) as typing, os.fdopen(terminal) as read:
        monkeypatch.setattr("sys.stdin", read)
        typing.write(f"{answer}\n".encode())
        ended, out, _ = await replay("--all")
    assert ended == code
    assert "Publish them again? [y/N]" in out
    assert await statuses(db) == {left: 1}


def test_help_says_that_consumers_see_them_again(capsys):
    with pytest.raises(SystemExit):
        main(["replay", "--help"])
    assert "event_id" in capsys.readouterr().out


@pytest.mark.both_versions
async def test_a_time_range_reads_its_part_of_the_table(database_url, db):
    await db.execute("SET dispatcher.doorbell = off")
    for day in range(4):
        when = AT + timedelta(days=day)
        await insert_events(db, 20_000, status="sent", occurred_at=when, sent_at=when)
    await db.execute("VACUUM ANALYZE messaging.message_outbox")  # which summarizes the BRIN index
    text = load("replay_find")
    unlimited = ("event_types", "aggregate_types", "aggregate_ids", "event_ids", "until")
    for name, value in {"since": "2025-06-04", **dict.fromkeys(unlimited)}.items():
        text = text.replace(f"%({name})s", f"'{value}'" if value else "NULL")
    session = await connect(PostgresTarget(database_url, "test"), "replay")
    await session.script("SET enable_seqscan = on; SET enable_sort = on")
    [(plans,)] = await session.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) {text}")
    await session.close()
    plan = (json.loads(plans) if isinstance(plans, str) else plans)[0]["Plan"]
    while "Plans" in plan and plan["Node Type"] != "Bitmap Heap Scan":
        plan = plan["Plans"][0]
    assert plan["Actual Rows"] == 20_000
    assert plan["Rows Removed by Index Recheck"] + plan.get("Rows Removed by Filter", 0) < 5_000


async def test_an_event_that_is_not_replayed_is_named_with_the_reason(replay, db):
    """The runbook deletes the dead stream next: exit code 0 would say that it may."""
    unknown = str(uuid4())
    await insert_events(db, event_id=OTHER, status="sent", sent_at=AT)
    await insert_events(db, status="dead", last_error="x")
    await insert_events(db, status="retry")
    _, dead, coming = [str(row["event_id"]) for row in await read_table(db)]
    code, out, err = await replay("--event-id", unknown, "--event-id", dead, "--event-id", OTHER, "--yes")
    assert (code, out.splitlines()[-1]) == (1, "Replayed 1 row.")
    assert f"Not replayed: {unknown}: there is no row of it: it was pruned" in err
    assert f"Not replayed: {dead}: it is dead: `dispatcher dlq retry {dead}`" in err
    code, out, err = await replay("--event-id", coming, "--event-id", OTHER, "--yes")
    assert (code, out) == (0, "No sent row matches.\n")
    assert f"Not replayed: {coming}: its row is 'retry': it is published anyway" in err
    code, out, err = await replay("--event-id", unknown, "--dry-run", "--json")
    [missing] = json.loads(out)["not_replayed"]
    assert (code, missing["event_id"], missing["coming"]) == (1, unknown, False)
    await db.execute("UPDATE messaging.message_outbox SET status = 'sent', sent_at = %s", [AT])
    code, _, err = await replay("--event-id", OTHER, "--since", "1h", "--yes")
    assert (code, "does not match the other options" in err) == (1, True)
    assert (await replay("--event-id", OTHER, "--yes"))[0] == 0
