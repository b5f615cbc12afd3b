"""`dispatcher prune` deletes what the procedures delete, walks past what must stay, and takes its turn."""

import json
import os
import pty
from datetime import UTC, datetime, timedelta

import anyio
import psycopg
import pytest

from dispatcher.core.errors import DispatcherError
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.ops.prune import PruneSession
from tests.support.command import HearCommand, RunCommand
from tests.support.rows import insert_events, read_table, statuses
from tests.support.waiting import until

NOW = datetime.now(UTC)
OLD, RECENT = NOW - timedelta(days=8), NOW - timedelta(days=6)


async def fill(db: psycopg.AsyncConnection) -> None:
    """Old rows behind and between what must stay, and copies of both ages."""
    await insert_events(db, 30, status="sent", occurred_at=RECENT, sent_at=RECENT)
    await insert_events(db, 25, status="sent", occurred_at=OLD, sent_at=OLD)
    await insert_events(db, 3, occurred_at=OLD)
    await insert_events(db, 2, status="dead", occurred_at=OLD)
    for died_at in (NOW - timedelta(days=31), NOW - timedelta(days=29)):
        await db.execute(
            "INSERT INTO messaging.message_dlq (outbox_id, event_id, message_id, event_type, aggregate_type, "
            "aggregate_id, payload, attempts, occurred_at, died_at, replayed_at) SELECT i, gen_random_uuid(), "
            "gen_random_uuid(), 'a', 'b', 'c', '{}', 1, %s, %s, now() FROM generate_series(1, 15) AS i",
            [died_at, died_at],
        )


async def test_it_deletes_what_the_procedures_delete(command: RunCommand, db: psycopg.AsyncConnection) -> None:
    await fill(db)
    await db.execute("BEGIN")
    await db.execute("CALL messaging.prune_message_outbox('7 days'); CALL messaging.prune_message_dlq('30 days')")
    expected = await statuses(db), len(await read_table(db, "message_dlq"))
    await db.execute("ROLLBACK")

    assert (await command("prune", "--dry-run"))[1] == (
        "Too old: 27 settled rows (older than 7d) and 15 dead-letter copies (older than 30d)\n"
    )
    assert await statuses(db) != expected[0]
    code, output = await command("prune")
    assert code == 0
    assert output.startswith("Deleted 27 settled rows and 15 dead-letter copies.\n")
    assert "100% of the outbox walked, 27 rows deleted" in output
    assert (await statuses(db), len(await read_table(db, "message_dlq"))) == expected
    assert (await command("prune"))[1].startswith("Deleted 0 settled rows and 0 ")


async def test_small_batches_walk_past_what_must_stay(db: psycopg.AsyncConnection, database_url: str) -> None:
    await fill(db)
    shares: list[float] = []
    target = PostgresTarget(database_url, "test")
    async with PruneSession(target, outbox_s=7 * 86_400, dlq_s=30 * 86_400, batch=10) as run:
        await run.run(shares.append)
    assert (run.rows, run.copies) == (27, 15)
    assert shares == sorted(shares)
    assert len(shares) >= 6
    assert shares[-1] == 1.0


async def test_ages_come_from_the_settings_and_the_flags(command: RunCommand, db: psycopg.AsyncConnection) -> None:
    await fill(db)
    assert "Too old: 57 settled rows" in (await command("prune", "--dry-run", OUTBOX_RETENTION_DAYS="5"))[1]
    assert (await command("prune", "--dry-run", "--outbox-older-than", "12h", "--only", "outbox"))[
        1
    ] == "Too old: 57 settled rows (older than 12h)\n"
    code, output = await command("prune", "--dlq-older-than", "0s", "--only", "dlq")
    assert output.startswith("Deleted 0 settled rows and 30 dead-letter copies.")
    assert len(await read_table(db)) == 60
    code, output = await command("prune", "--outbox-older-than", "soon")
    assert code == 2
    assert "'soon' is no duration such as 7d" in output
    code, output = await command("prune", "--only", "dlq", "--outbox-older-than", "12h")
    assert code == 2
    assert "--outbox-older-than does nothing with --only dlq" in output


@pytest.mark.parametrize(("answer", "code", "left"), [("y", 0, 33), ("n", 1, 60), ("", 1, 60)])
async def test_a_person_is_asked(command: RunCommand, db, monkeypatch, answer, code, left) -> None:
    await fill(db)
    keyboard, terminal = pty.openpty()
    with os.fdopen(keyboard, "wb", buffering=0) as typing, os.fdopen(terminal) as read:
        monkeypatch.setattr("sys.stdin", read)
        typing.write(f"{answer}\n".encode())
        ended, output = await command("prune")
        assert ended == code
        assert "Too old: 27 settled rows (older than 7d) and 15 dead-letter copies (older than 30d)\n" in output
        assert "Delete them? [y/N]" in output
        assert len(await read_table(db)) == left
        code, output = await command("prune", "--yes")
        assert (code, "Delete them?" in output) == (0, False)


async def test_json(heard: HearCommand, db: psycopg.AsyncConnection) -> None:
    await fill(db)
    days = 86_400.0
    fields = {
        "older_than_s": {"outbox": 7 * days, "dlq": 30 * days},
        "settled_rows": 27,
        "dead_letter_copies": 15,
        "held_rows": 0,
    }
    code, out, _ = await heard("prune", "--dry-run", "--json")
    assert (code, json.loads(out)) == (0, {"dry_run": True} | fields)
    assert len(await read_table(db)) == 60
    code, out, _ = await heard("prune", "--json")
    assert (code, json.loads(out)) == (0, {"dry_run": False} | fields)
    assert len(await read_table(db)) == 33
    _, out, _ = await heard("prune", "--json", "--only", "dlq", "--dlq-older-than", "90s")
    assert json.loads(out)["older_than_s"] == {"outbox": None, "dlq": 90.0}


async def test_it_waits_while_somebody_else_prunes(
    command: RunCommand, db: psycopg.AsyncConnection, database_url: str
) -> None:
    await fill(db)

    async def waits() -> bool:
        look = (
            "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%%pg_try_advisory_xact_lock%%' "
            "AND datname = current_database() AND pid NOT IN (%s, pg_backend_pid())"
        )
        return bool(await (await db.execute(look, [other.info.backend_pid])).fetchall())

    async with await psycopg.AsyncConnection.connect(database_url) as other, anyio.create_task_group() as tasks:
        await other.execute("CALL messaging.prune_message_dlq('100 days')")

        async def end() -> None:
            await until(waits, "it asks for its turn")
            assert len(await read_table(db)) == 60
            await other.rollback()

        tasks.start_soon(end)
        code, output = await command("prune")
        assert output.startswith("Deleted 27 settled rows and 15 ")
        assert code == 0


async def test_somebody_else_prunes_too_long(database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await other.execute("CALL messaging.prune_message_dlq('100 days')")
        target = PostgresTarget(database_url, "test")
        async with PruneSession(target, outbox_s=None, dlq_s=0.0, lock_wait_s=0.0) as run:
            with pytest.raises(DispatcherError, match="somebody else has been pruning"):
                await run.run(lambda share: None)


async def test_an_empty_outbox_and_no_right(
    command: RunCommand, db: psycopg.AsyncConnection, database_url: str
) -> None:
    assert (await command("prune"))[1].startswith("Deleted 0 settled rows and 0 dead-letter copies.")
    await db.execute("CREATE ROLE stranger_to_prune LOGIN")
    code, output = await command("prune", DATABASE_URL=f"{database_url}?user=stranger_to_prune")
    await db.execute("DROP ROLE stranger_to_prune")
    assert code == 2
    assert "may not prune; grant it the role outbox_dispatcher" in output
