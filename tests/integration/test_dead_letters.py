"""Dead events: which are listed, and that each is put back once, from its row or from its copy."""

import json
import uuid
from typing import Any

import anyio
import pytest

from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.ops.dead_letters.decide import Decision, decide
from dispatcher.ops.dead_letters.find import Filter, TooLarge, count, find_one, find_page
from dispatcher.ops.dead_letters.identity import LARGEST, parse
from tests.support.dead_letters import bury, prune
from tests.support.rows import insert_events, one_row, read_table, statuses
from tests.support.waiting import until

RETRY = Decision("retry")
ALL = Filter()


@pytest.fixture
async def session(database_url: str):
    session = await connect(PostgresTarget(database_url, "test", query_timeout_s=20.0), "api")
    yield session
    await session.close()


async def listed(session: Session, which: Filter = ALL, **options: Any) -> list[dict[str, Any]]:
    page = await find_page(session.fetch, which, **({"limit": 100} | options))
    events: list[dict[str, Any]] = json.loads(page.events)
    assert len(events) == page.count
    return events


async def dead_ids(session: Session, which: Filter = ALL) -> list[int]:
    """The ids in the list, held against the counts and against each one asked for by itself."""
    found = [event["id"] for event in await listed(session, which)]
    stats = await count(session.fetch, which)
    assert stats.total == len(found) == sum(group["count"] for group in stats.by_error)
    assert stats.total == sum(group["count"] for group in stats.by_type)
    for row_id in found:
        one = await find_one(session.fetch, row_id)
        assert one is not None
        assert await find_one(session.fetch, uuid.UUID(json.loads(one)["event_id"])) == one
    return found


async def test_what_an_event_shows(session, db):
    [row_id] = await insert_events(db, headers='{"traceparent": "x"}', payload='{"n": 1e400}', aggregate_id='ü"\\')
    await bury(db, [row_id])
    [row], [copy] = await read_table(db), await read_table(db, "message_dlq")
    expected = {
        "id": row_id,
        "event_id": str(row["event_id"]),
        "message_id": str(row["message_id"]),
        "event_type": "order.created",
        "aggregate_type": "message",
        "aggregate_id": 'ü"\\',
        "status": "dead",
        "attempts": 1,
        "last_error": "ERR refused",
        "occurred_at": row["occurred_at"].strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "died_at": copy["died_at"].strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "replay_count": 0,
        "in_outbox": True,
    }
    assert await listed(session) == [expected]
    with_payload = expected | {"payload": {"n": 10**400}, "headers": {"traceparent": "x"}}
    assert await listed(session, payload=True) == [with_payload]
    one = await find_one(session.fetch, row_id, payload=True)
    assert json.loads(one or "") == with_payload
    await prune(db)
    assert await listed(session, payload=True) == [with_payload | {"in_outbox": False}]


async def test_a_row_says_whether_its_event_is_dead_and_its_copy_after_that(session, db):
    alive, buried, by_hand, replayed, resent, pruned, pruned_by_hand, again = await insert_events(db, 8)
    await bury(db, [buried, replayed, resent, pruned, again])
    hand = "UPDATE messaging.message_outbox SET status = 'dead' WHERE id = %s"
    await db.execute(hand, [pruned_by_hand])
    await db.execute("CALL messaging.prune_message_outbox('0')")  # buried ones and that; only copies are left
    assert [row["id"] for row in await read_table(db)] == [alive, by_hand]
    assert await dead_ids(session) == sorted([buried, replayed, resent, pruned, pruned_by_hand, again], reverse=True)
    await decide(session.fetch, [buried, replayed, resent, again], RETRY)  # rows again
    assert await dead_ids(session) == [pruned_by_hand, pruned]
    await bury(db, [buried, replayed, resent, again])
    await db.execute(hand, [by_hand])
    assert await dead_ids(session) == sorted([buried, by_hand, replayed, resent, again, pruned, pruned_by_hand])[::-1]
    plain = "UPDATE messaging.message_outbox SET status = 'pending', attempts = 0, last_error = NULL WHERE id = %s"
    await db.execute(plain, [replayed])
    for row_id in (resent, again):
        await db.execute(plain, [row_id])
        await db.execute(
            "UPDATE messaging.message_outbox SET status = 'sent', sent_at = clock_timestamp() WHERE id = %s", [row_id]
        )
    await db.execute(plain, [again])
    await bury(db, [again])  # was sent, and died after that
    assert await dead_ids(session) == sorted([buried, by_hand, again, pruned, pruned_by_hand], reverse=True)
    await prune(db)
    assert await dead_ids(session) == sorted([buried, by_hand, again, pruned, pruned_by_hand], reverse=True)


async def test_what_its_producer_inserted_anew_is_what_the_new_row_is(session, db):
    event_id = str(uuid.uuid4())
    old = await insert_events(db, event_id=event_id)
    await bury(db, old)
    await prune(db)
    [new] = await insert_events(db, event_id=event_id)
    assert await dead_ids(session) == []
    assert (await decide(session.fetch, [*old, uuid.UUID(event_id)], RETRY)).ids == ()
    await bury(db, [new])
    assert await dead_ids(session) == [new]
    assert (await decide(session.fetch, [uuid.UUID(event_id)], RETRY)).ids == (new,)
    assert await statuses(db) == {"pending": 1}


async def test_filters_and_groups(session, db):
    for event_type in ("order.created", "order.paid"):
        for aggregate_type in ("order", "invoice"):
            ids = await insert_events(db, 3, event_type=event_type, aggregate_type=aggregate_type)
            await bury(db, ids[:1], "ERR one")
            await bury(db, ids[1:2], "ERR two")
            if event_type == "order.paid":
                await prune(db)
            await db.execute("UPDATE messaging.message_outbox SET status = 'dead' WHERE status = 'pending'")
    everything = await listed(session)
    assert len(everything) == 12
    for which in (
        Filter(event_type="order.paid"),
        Filter(aggregate_type="invoice"),
        Filter(last_error="ERR one"),
        Filter(event_type="order.created", aggregate_type="order", last_error="ERR two"),
        Filter(event_type="nothing"),
    ):
        wanted = {
            name: value
            for name in ("event_type", "aggregate_type", "last_error")
            if (value := getattr(which, name)) is not None
        }
        assert await dead_ids(session, which) == [e["id"] for e in everything if wanted.items() <= e.items()]
    assert await dead_ids(session, Filter(last_error="")) == [e["id"] for e in everything if e["last_error"] is None]
    stats = await count(session.fetch, Filter())
    assert {group["last_error"]: group["count"] for group in stats.by_error} == {"ERR one": 4, "ERR two": 4, None: 4}
    assert stats.by_type[0] == {"event_type": "order.created", "aggregate_type": "invoice", "count": 3}


async def test_pages_follow_one_another(session, db):
    ids = await insert_events(db, 25)
    await bury(db, ids)
    await db.execute("DELETE FROM messaging.message_outbox WHERE id % 2 = 0")
    newest_first = sorted(ids, reverse=True)
    pages = [[e["id"] for e in await listed(session, limit=10, offset=offset)] for offset in (0, 10, 20, 30)]
    assert pages == [newest_first[:10], newest_first[10:20], newest_first[20:], []]
    assert [e["id"] for e in await listed(session, limit=10, before=newest_first[9])] == newest_first[10:20]


async def test_more_than_an_answer_may_hold_is_refused(session, db):
    most = 20_000
    await bury(db, await insert_events(db, 3, payload=json.dumps("x" * 10_000)))  # compresses well
    assert len(await listed(session, max_bytes=most)) == 3
    assert len(await listed(session, limit=1, payload=True, max_bytes=most)) == 1
    with pytest.raises(TooLarge, match="ask for fewer at once"):
        await listed(session, payload=True, max_bytes=most)
    [large] = await insert_events(db, payload=json.dumps("x" * 100_000))
    await bury(db, [large])
    assert await find_one(session.fetch, large, max_bytes=most)
    with pytest.raises(TooLarge, match="read its payload in Postgres"):
        await find_one(session.fetch, large, payload=True, max_bytes=most)


@pytest.mark.parametrize("pruned", [False, True])
async def test_a_retried_event_is_as_new_and_its_copy_closed(session, db, pruned):
    [row_id] = await insert_events(db, headers='{"a": 1}', occurred_at="2025-06-01 00:00:00+00")
    [before] = await read_table(db)
    await bury(db, [row_id])
    if pruned:
        await prune(db)
        assert await read_table(db) == []
    done = await decide(session.fetch, [row_id], RETRY)
    assert (done.ids, done.not_dead, done.forbidden) == ((row_id,), (), False)
    [after] = await read_table(db)
    assert after.pop("next_run_at") > before.pop("next_run_at")
    assert after == before
    [copy] = await read_table(db, "message_dlq")
    assert (copy["replayed_at"] is None, copy["replay_count"]) == (False, 1)
    again = await decide(session.fetch, [before["event_id"]], RETRY)
    assert (again.ids, again.not_dead) == ((), (before["event_id"],))
    await bury(db, [row_id])
    assert await dead_ids(session) == [row_id]
    assert len(await read_table(db, "message_dlq")) == 2


@pytest.mark.parametrize("pruned", [False, True])
async def test_each_death_shows_how_often_it_was_replayed_so_far(session, db, pruned):
    """A retry closes the copy, and the next death makes another one, which must not begin at 0 again."""
    [row_id] = await insert_events(db)
    for replays in range(4):
        await bury(db, [row_id])
        if pruned:
            await prune(db)
        [event] = await listed(session)
        one = json.loads(await find_one(session.fetch, row_id) or "{}")
        copies = await read_table(db, "message_dlq")
        assert (event["replay_count"], one["replay_count"], copies[-1]["replay_count"]) == (replays,) * 3
        await decide(session.fetch, [row_id], RETRY)
    await db.execute("UPDATE messaging.message_outbox SET status = 'dead'")  # by hand, without a copy
    assert [event["replay_count"] for event in await listed(session)] == [4]
    await db.execute("DELETE FROM messaging.message_outbox")
    [other] = await insert_events(db)
    await bury(db, [other])
    assert [event["replay_count"] for event in await listed(session)] == [0]


@pytest.mark.promise("dead-letter")
async def test_two_clicks_at_once_are_one_replay(database_url, db):
    ids = await insert_events(db, 200)
    await bury(db, ids)
    await db.execute(
        "UPDATE messaging.message_outbox SET occurred_at = '2025-01-01', picked_at = '2025-01-01' WHERE id % 2 = 0"
    )
    await db.execute("CALL messaging.prune_message_outbox('1 day')")
    assert await statuses(db) == {"dead": 100}
    uuids = {row["outbox_id"]: row["event_id"] for row in await read_table(db, "message_dlq")}
    done: list[int] = []

    async def click(names: list[Any]) -> None:
        session = await connect(PostgresTarget(database_url, "test"), "api")
        done.extend((await decide(session.fetch, names, RETRY)).ids)
        await session.close()

    async with anyio.create_task_group() as clicks:
        for turn in range(4):
            names: list[Any] = [uuids[row_id] for row_id in ids] if turn % 2 else [*ids]
            clicks.start_soon(click, names[::-1] if turn > 1 else names)
    assert sorted(done) == ids
    assert await statuses(db) == {"pending": 200}
    assert {row["replay_count"] for row in await read_table(db, "message_dlq")} == {1}


@pytest.mark.parametrize("pruned", [False, True])
async def test_a_click_waits_for_the_one_before_it(database_url, session, db, pruned):
    [row_id] = await insert_events(db)
    await bury(db, [row_id])
    if pruned:
        await prune(db)
    other = await connect(PostgresTarget(database_url, "test"), "api")
    await other.fetch("BEGIN")
    assert (await decide(other.fetch, [row_id], RETRY)).ids == (row_id,)
    found: list[tuple[int, ...]] = []

    async def second() -> None:
        found.append((await decide(session.fetch, [row_id], RETRY)).ids)

    async with anyio.create_task_group() as clicks:
        clicks.start_soon(second)
        blocked = "SELECT FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
        await until(lambda: one_row(db, blocked, session.backend_pid), "the second click waits for the first")
        await other.fetch("COMMIT")
    await other.close()
    assert found == [()]
    assert await statuses(db) == {"pending": 1}


def test_names_of_events():
    assert parse("7") == 7
    assert parse(str(LARGEST)) == LARGEST
    text = "7C8B6A9E-3b0f-4f0e-9a44-0c0f5d1f8a11"
    assert parse(text) == uuid.UUID(text)
    for wrong in (
        "",
        "0",
        "-1",
        "+1",
        " 1",
        "1.0",
        "٣",
        "x",
        str(LARGEST + 1),
        text[:-1],
        "{" + text + "}",
        text.replace("-", ""),
    ):
        with pytest.raises(ValueError, match="the number of a row"):
            parse(wrong)
