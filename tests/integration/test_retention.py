"""Retention deletes what the prune procedures delete, in small batches, by one at a time, and finds it cheaply."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import product
from random import Random
from typing import Any

import anyio
import psycopg
import pytest
from psycopg import sql

from dispatcher.core.events import Pruned, PruneRefused, Sampled, Settled
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.sqlfiles import load
from dispatcher.upkeep.retention import Retention, RetentionPace
from tests.support.rows import insert_events, read_table, statuses
from tests.support.tap import Tap

NOW = datetime(2025, 6, 20, 12, 0, tzinfo=UTC)
DAY_S = 86_400.0
OLD, NEW = NOW - timedelta(days=8), NOW - timedelta(days=6)
DURABLE = {"outbox_id", "event_id", "payload", "headers", "attempts", "last_error", "occurred_at", "replay_count"}


@pytest.fixture
async def session(database_url: str) -> AsyncIterator[Session]:
    session = await connect(PostgresTarget(database_url, "test"), "upkeep")
    yield session
    await session.close()


SMALL = 10  # rows of a window


def keeper(tap: Tap, **pace: Any) -> Retention:
    return Retention(outbox_days=7, dlq_days=30, observe=tap, pace=RetentionPace(**pace))


async def look(keep: Retention, session: Session) -> bool:
    return await keep.delete_batch(session, now=NOW)


async def to_the_end(keep: Retention, session: Session) -> int:
    """Look until there is no more; how many looks it took."""
    looks = 1
    while await look(keep, session):
        looks += 1
    return looks


async def bury(db: psycopg.AsyncConnection[Any], ids: list[int], **columns: object) -> None:
    """Give rows their open copy in the dead-letter queue."""
    values = {"last_error": "refused", "died_at": NEW, **columns}
    await db.execute(
        sql.SQL(
            "INSERT INTO messaging.message_dlq (outbox_id, event_id, message_id, event_type, aggregate_type, "
            "aggregate_id, payload, attempts, occurred_at, {}) SELECT id, event_id, message_id, event_type, "
            "aggregate_type, aggregate_id, payload, attempts, occurred_at, {} FROM messaging.message_outbox "
            "WHERE id = ANY ({})"
        ).format(
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join(map(sql.Literal, values.values())),
            sql.Literal(ids),
        )
    )


async def tables(db: psycopg.AsyncConnection[Any]) -> tuple[list[int], list[dict[str, Any]]]:
    """The rows left, and the copies without their ids and the times that differ from run to run."""
    copies = [
        {name: value for name, value in copy.items() if name in DURABLE} | {"open": copy["replayed_at"] is None}
        for copy in await read_table(db, "message_dlq")
    ]
    return [row["id"] for row in await read_table(db)], sorted(copies, key=lambda copy: copy["outbox_id"])


@pytest.mark.both_versions
@pytest.mark.promise("retention")
async def test_it_deletes_what_the_procedures_delete_and_does_as_they_do_with_copies(session, db, tap):
    now = datetime.now(UTC)  # the procedures know no other
    ages: list[datetime | None] = [now - timedelta(days=8), now - timedelta(days=6)]
    for status, occurred, picked, sent, copied in product(
        ("pending", "retry", "picked", "sent", "dead"), ages, [*ages, None], [*ages, None], (False, True)
    ):
        if status != "picked" or picked is not None:
            times: dict[str, Any] = {"occurred_at": occurred, "picked_at": picked, "sent_at": sent}
            row = await insert_events(db, status=status, **times)
            if copied:
                await bury(db, row, died_at=now - timedelta(days=29))
    ids = [row["id"] for row in await read_table(db)]
    await bury(db, ids[:1], died_at=now - timedelta(days=31), replayed_at=now - timedelta(days=31))
    before = await tables(db)

    await db.execute("BEGIN")
    await db.execute("CALL messaging.prune_message_outbox(INTERVAL '7 days')")
    await db.execute("CALL messaging.prune_message_dlq(INTERVAL '30 days')")
    expected = await tables(db)
    await db.execute("ROLLBACK")
    assert await tables(db) == before

    await keeper(tap).delete_batch(session, now=now)
    assert await tables(db) == expected
    assert expected != before
    deleted = len(before[0]) - len(expected[0])
    assert sum(seen.outbox for seen in tap.all(Pruned)) == deleted > 0
    assert sum(seen.dlq for seen in tap.all(Pruned)) == 1


@pytest.mark.promise("clock")
@pytest.mark.parametrize("days", [40, 36_500])
async def test_a_clock_that_is_set_forward_by_mistake_deletes_nothing(session, db, tap, days):
    now = datetime.now(UTC)
    sent = await insert_events(db, 2, status="sent", sent_at=now)
    await bury(db, await insert_events(db, status="dead"), died_at=now)
    before = await tables(db)
    await keeper(tap).delete_batch(session, now=now + timedelta(days=days))
    assert await tables(db) == before
    await db.execute(
        "UPDATE messaging.message_outbox SET sent_at = %s WHERE id = %s", [now - timedelta(days=8), sent[0]]
    )
    await keeper(tap).delete_batch(session, now=now + timedelta(days=days))
    assert [row for row in before[0] if row != sent[0]] == (await tables(db))[0]


async def test_a_sent_rows_open_copy_is_closed_and_a_dead_row_keeps_one(session, db, tap):
    replayed = await insert_events(db, status="sent", occurred_at=OLD, sent_at=OLD)
    by_hand = await insert_events(db, status="dead", occurred_at=OLD, last_error="by hand")
    buried = await insert_events(db, status="dead", occurred_at=OLD, last_error="refused")
    await bury(db, replayed + buried, died_at=OLD)
    assert not await look(keeper(tap), session)
    assert await read_table(db) == []
    copies = {copy["outbox_id"]: copy for copy in await read_table(db, "message_dlq")}
    assert {row_id: copy["replayed_at"] is None for row_id, copy in copies.items()} == {
        replayed[0]: False,
        by_hand[0]: True,
        buried[0]: True,
    }
    assert copies[replayed[0]]["replay_count"] == 1
    assert (copies[by_hand[0]]["last_error"], copies[by_hand[0]]["payload"]) == ("by hand", {"n": 1})


async def test_it_goes_in_batches_and_says_when_there_is_more(session, db, tap):
    await insert_events(db, 25, status="sent", occurred_at=OLD, sent_at=OLD)
    waiting = await insert_events(db, 2, occurred_at=OLD)
    recent = await insert_events(db, 30, status="sent", occurred_at=NEW, sent_at=NEW)
    assert await to_the_end(keeper(tap, window=SMALL), session) == 4
    assert [(seen.outbox, seen.more) for seen in tap.all(Pruned)] == [(10, True), (10, True), (5, True), (0, False)]
    assert [row["id"] for row in await read_table(db)] == waiting + recent


async def test_old_copies_go_in_batches_too(session, db, tap):
    rows = await insert_events(db, 25, occurred_at=NEW)
    await bury(db, rows[:21], died_at=NOW - timedelta(days=31))
    await bury(db, rows[21:], died_at=NOW - timedelta(days=29))
    assert await to_the_end(keeper(tap, window=SMALL), session) == 3
    assert [seen.dlq for seen in tap.all(Pruned)] == [10, 10, 1]
    assert [copy["outbox_id"] for copy in await read_table(db, "message_dlq")] == rows[21:]


async def test_what_is_waiting_or_was_sent_again_does_not_hide_what_comes_after_it(session, db, tap):
    await insert_events(db, 35, occurred_at=OLD)
    await insert_events(db, 35, status="sent", occurred_at=OLD, sent_at=NEW)
    await insert_events(db, 35, status="sent", occurred_at=NOW + timedelta(days=900), sent_at=NEW)
    await insert_events(db, 5, status="sent", occurred_at=OLD, sent_at=OLD)
    keep = keeper(tap, window=SMALL)
    await to_the_end(keep, session)
    assert sum(seen.outbox for seen in tap.all(Pruned)) == 5
    assert await to_the_end(keep, session) == 1  # it stays where it is


async def test_what_it_passed_by_is_found_by_the_next_walk(session, db, tap, database_url):
    passed = await insert_events(db, 20, occurred_at=OLD)
    await insert_events(db, 20, status="sent", occurred_at=NEW, sent_at=NEW)
    keep = keeper(tap, window=SMALL, walk_again_s=0.0)
    await to_the_end(keep, session)
    await db.execute(
        "UPDATE messaging.message_outbox SET status = 'sent', sent_at = %s WHERE id = ANY (%s)", [OLD, passed]
    )
    await to_the_end(keep, session)
    assert len(await read_table(db)) == 40  # behind it

    keep._in_vain = 0
    keep._walk_again()
    await to_the_end(keep, session)
    assert len(await read_table(db)) == 20


async def test_a_walk_in_vain_is_not_begun_again_at_once(session, db, tap):
    await insert_events(db, 45, status="sent", occurred_at=OLD, sent_at=NEW)  # an import of old events
    keep = keeper(tap, window=SMALL, walk_again_s=0.0)
    assert await to_the_end(keep, session) == 5
    keep._walk_again()
    assert await to_the_end(keep, session) == 1


async def test_it_takes_smaller_batches_where_they_are_slow(session, db, tap):
    await insert_events(db, 30, status="sent", occurred_at=OLD, sent_at=OLD)
    keep = keeper(tap, window=SMALL, slow_s=0.0)
    assert [await look(keep, session) for _ in range(5)] == [True] * 5
    assert [seen.outbox for seen in tap.all(Pruned)] == [10, 5, 2, 1, 1]
    quick = keeper(tap, window=SMALL, slow_s=60.0)
    quick._window = keep._window
    for _ in range(3):
        await look(quick, session)
    assert [seen.outbox for seen in tap.all(Pruned)][5:] == [1, 2, 4]


@pytest.mark.promise("retention")
async def test_one_at_a_time_with_the_procedures(session, db, tap):
    await insert_events(db, status="sent", occurred_at=OLD, sent_at=OLD)
    await bury(db, await insert_events(db), died_at=NOW - timedelta(days=31))
    await db.execute("BEGIN")
    await db.execute("CALL messaging.prune_message_outbox(INTERVAL '9000 days')")
    assert not await look(keeper(tap), session)
    assert tap.all(Pruned) == [Pruned(0, 0)]
    await db.execute("ROLLBACK")
    await look(keeper(tap), session)
    assert tap.all(Pruned)[1:] == [Pruned(1, 1)]
    # The lock went with the statement.
    [(free,)] = await (await db.execute("SELECT pg_try_advisory_lock(1869968482, 3)")).fetchall()
    assert free


async def test_a_row_somebody_holds_is_left_and_a_replayed_one_stays(session, db, tap):
    held, free = await insert_events(db, 2, status="dead", occurred_at=OLD)
    await db.execute("BEGIN")
    await db.execute("UPDATE messaging.message_outbox SET status = 'pending' WHERE id = %s", [held])
    await look(keeper(tap), session)
    await db.execute("COMMIT")
    await look(keeper(tap), session)
    assert tap.all(Pruned) == [Pruned(1, 0), Pruned(0, 0)]
    assert await statuses(db) == {"pending": 1}
    assert [copy["outbox_id"] for copy in await read_table(db, "message_dlq")] == [free]


async def test_a_copy_somebody_holds_does_not_hold_it_up(session, db, tap):
    rows = await insert_events(db, 3, status="sent", occurred_at=OLD, sent_at=OLD)
    await bury(db, rows[1:2])
    async with await psycopg.AsyncConnection.connect(db.info.dsn, autocommit=True) as other:
        await other.execute("BEGIN")
        await other.execute("SELECT FROM messaging.message_dlq FOR UPDATE")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            await look(keeper(tap), session)
        assert len(await read_table(db)) == 3
        await other.execute("ROLLBACK")
    [(patience,)] = await session.fetch("SHOW lock_timeout")
    assert patience == "0"  # it was the statement's only
    await look(keeper(tap), session)
    assert tap.all(Pruned) == [Pruned(3, 0)]


async def test_a_refusal_is_said_once_and_it_goes_on(database_url, db, tap):
    await insert_events(db, status="sent", occurred_at="2001-01-01 00:00:00+00", sent_at="2001-01-01 00:00:00+00")
    link = ReconnectingSession(PostgresTarget(database_url, "test"), "upkeep", rng=Random(1))
    async with anyio.create_task_group() as tasks:
        await tasks.start(link.keep)
        await db.execute("BEGIN")
        await db.execute("LOCK TABLE messaging.message_dlq IN ACCESS EXCLUSIVE MODE")
        assert link.session is not None
        await link.session.fetch("SET lock_timeout = '20ms'")
        tasks.start_soon(keeper(tap, every_s=0.01).run, link)
        assert "LockNotAvailable 55P03" in (await tap.next(PruneRefused)).reason
        await db.execute("COMMIT")
        assert await tap.next(Pruned) == Pruned(1, 0)
        tasks.cancel_scope.cancel()
    assert len(tap.all(PruneRefused)) == 1


async def test_a_lost_session_is_reported_and_the_next_one_used(database_url, db, tap):
    downs: list[str | None] = []
    link = ReconnectingSession(PostgresTarget(database_url, "test"), "upkeep", rng=Random(1))
    link.on_change(lambda up, reason: None if up else downs.append(reason))
    async with anyio.create_task_group() as tasks:
        await tasks.start(link.keep)
        tasks.start_soon(keeper(tap, every_s=0.01).run, link)
        await tap.next(Pruned)
        assert link.session is not None
        await db.execute("SELECT pg_terminate_backend(%s)", [link.session.backend_pid])
        first = link.session
        while link.session is first or link.session is None:
            await tap.next(Pruned)
        await tap.next(Pruned)
        tasks.cancel_scope.cancel()
    assert len(downs) == 1


async def test_the_service_prunes_beside_the_relay(dispatcher, db):
    old = {"occurred_at": "2001-01-01 00:00:00+00", "sent_at": "2001-01-01 00:00:00+00"}
    await insert_events(db, 3, status="sent", **old)
    await bury(db, await insert_events(db, status="sent"), died_at="2001-01-01 00:00:00+00")
    async with dispatcher() as running:
        assert await running.tap.next(Pruned) == Pruned(3, 1)
        await insert_events(db)
        assert (await running.tap.next(Settled)).sent == 1
        prometheus = running.service._metrics.registry.get_sample_value
        assert prometheus("messaging_outbox_pruned_total", {"table": "message_outbox"}) == 3
        assert prometheus("messaging_outbox_pruned_total", {"table": "message_dlq"}) == 1
    assert await statuses(db) == {"sent": 2}


async def test_a_disabled_dispatcher_deletes_nothing(dispatcher, db):
    await insert_events(db, status="sent", occurred_at="2001-01-01 00:00:00+00")
    async with dispatcher(enabled=False) as running:
        await running.tap.next(Sampled)  # on the same session, and later
        assert running.tap.all(Pruned) == []
    assert await statuses(db) == {"sent": 1}


async def explain(session: Session, name: str, **parameters: object) -> dict[str, Any]:
    """The plan of one run that is undone, of the statement as it is: no plan of an empty table is kept."""
    text = load(name)
    for parameter, value in parameters.items():
        text = text.replace(f"%({parameter})s", sql.Literal(value).as_string())
    await session.fetch("BEGIN")
    [(plans,)] = await session.fetch(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}".replace("%", "%%"))
    await session.fetch("ROLLBACK")
    plan: dict[str, Any] = (json.loads(plans) if isinstance(plans, str) else plans)[0]["Plan"]
    return plan


def touched(plan: dict[str, Any], table: str) -> int:
    """Rows of the table that the plan's scans read, kept or not."""
    own = 0.0
    if plan.get("Relation Name") == table and plan["Node Type"] != "ModifyTable":
        lost = sum(plan.get(f"Rows Removed by {why}", 0) for why in ("Filter", "Index Recheck"))
        own = plan["Actual Loops"] * (plan["Actual Rows"] + lost)
    return round(own) + sum(touched(child, table) for child in plan.get("Plans", []))


@pytest.mark.both_versions
@pytest.mark.promise("retention")
@pytest.mark.timeout(400)
async def test_an_idle_run_touches_one_window_of_a_large_table(session, db):
    await db.execute("SET dispatcher.doorbell = off")
    await db.execute("ALTER TABLE messaging.message_outbox SET (autovacuum_enabled = off)")
    ids = await insert_events(db, 200_000, status="sent", occurred_at=NEW, sent_at=NEW)
    await bury(db, ids[:50_000])
    idle = {"now": NOW, "ours": NOW, "older_than_s": 7 * DAY_S, "after_id": 0, "window": 1000, "batch": 1000}
    busy = idle | dict.fromkeys(("now", "ours"), NOW + timedelta(days=7))
    for phase in ("without statistics", "with statistics"):
        plan = await explain(session, "prune_outbox", **idle)
        assert touched(plan, "message_outbox") == 1000, phase
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 1000, phase
        plan = await explain(session, "prune_dlq", **idle)
        assert touched(plan, "message_dlq") == 0, phase
        # A full batch: each row looked at, locked, deleted, and its copy found.
        plan = await explain(session, "prune_outbox", **busy)
        assert 3000 <= touched(plan, "message_outbox") <= 4000, phase
        assert touched(plan, "message_dlq") <= 1000, phase
        plan = await explain(session, "prune_dlq", **busy)
        assert touched(plan, "message_dlq") <= 2000, phase
        await db.execute("ANALYZE messaging.message_outbox, messaging.message_dlq")


async def test_rows_of_negative_ids_are_deleted_too(
    session: Session, db: psycopg.AsyncConnection[Any], tap: Tap
) -> None:
    """Whoever moved rows here from elsewhere may have given them such ids."""
    for row_id in (-(2**62), -1, 0):
        await insert_events(db, id=row_id, status="sent", sent_at=OLD, occurred_at=OLD)
    await to_the_end(keeper(tap), session)
    assert await read_table(db) == []
