"""A claim takes due rows in order, each row once, and only its share."""

from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from random import randbytes
from typing import Any

import psycopg
import pytest
from anyio import create_task_group

from dispatcher.core.entry import EntryFormat
from dispatcher.core.errors import SessionLost
from dispatcher.core.pacing import CLAIM_BYTES
from dispatcher.core.row import Batch
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.sqlfiles import load
from dispatcher.stages.claim import FROM_THE_START, EventTypeFilter, IndexKey, claim, last_index_key, new_claim_id
from tests.support.rows import insert_events, one_row, read_table, statuses
from tests.support.waiting import becomes

pytestmark = pytest.mark.both_versions

OpenSession = Callable[[], Awaitable[Session]]
NOW = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
async def open_session(database_url: str) -> AsyncIterator[OpenSession]:
    sessions: list[Session] = []

    async def open_one() -> Session:
        sessions.append(await connect(PostgresTarget(database_url, "test"), "lane"))
        return sessions[-1]

    yield open_one
    for each in sessions:
        await each.close()


@pytest.fixture
async def session(open_session: OpenSession) -> Session:
    return await open_session()


async def take(session: Session, limit: int = 100, *, after: IndexKey = FROM_THE_START, slots: int = 256, **rest):
    return await claim(
        session,
        claim_id=new_claim_id(),
        dispatcher=7,
        limit=limit,
        after=after,
        canary_slots=slots,
        floor="1748779200000-5",
        **rest,
    )


def ids(batch: Batch) -> list[int]:
    return [row.id for row in batch.rows]


@pytest.mark.promise("too-large")
async def test_what_is_too_large_stays_in_postgres(session, db):
    """A batch of it would exhaust the memory of every dispatcher that claims it, one after the other."""
    large = '"' + "x" * 5000 + '"'
    await insert_events(db, payload=large)
    await insert_events(db, headers=large)
    await insert_events(db, payload=large[:4001] + '"', headers='"' + "y" * 500 + '"')
    await insert_events(db, payload="[1e131071]")  # stored in some twenty bytes, so it comes
    batch = await claim(session, claim_id=new_claim_id(), dispatcher=7, limit=100, most_bytes=4002)
    assert [(row.payload, row.headers) for row in batch.rows[:2]] == [("!5002", None), ('{"n": 1}', "!5002")]
    assert (len(batch.rows[2].payload), len(batch.rows[2].headers or "")) == (4002, 502)
    entry = EntryFormat("s", 10, 4002)
    assert [entry.unpublishable(row) for row in batch.rows[:3]] == [
        "payload is 5002 bytes, DISPATCH_MAX_PAYLOAD_BYTES allows 4002",
        "headers are 5002 bytes, DISPATCH_MAX_PAYLOAD_BYTES allows 4002",
        None,
    ]
    assert entry.unpublishable(batch.rows[3]) == "payload is 131074 bytes, DISPATCH_MAX_PAYLOAD_BYTES allows 4002"


LARGE = 1_000_000
COMPRESSED = '"' + "0" * (LARGE - 2) + '"'  # stored in about 11 KB
NUMBERS = "[" + ", ".join(["1e131071"] * 7) + "]"  # stored in some hundred bytes, 917,504 as text
RANDOM = '"' + b64encode(randbytes(LARGE * 3 // 4 - 3)).decode() + '"'


@pytest.mark.promise("too-large")
@pytest.mark.parametrize("limit", [256, 10_000])
@pytest.mark.parametrize(
    ("count", "columns"),
    [
        pytest.param(12, {"payload": RANDOM}, id="as it is"),
        pytest.param(12, {"payload": COMPRESSED}, id="compressed a hundred times"),
        pytest.param(6, {"payload": NUMBERS}, id="numbers with huge exponents"),
        pytest.param(400, {"payload": RANDOM[:15_000] + '"'}, id="many that are not very large"),
        pytest.param(12, {"headers": RANDOM}, id="headers"),
        pytest.param(6, {"headers": NUMBERS, "payload": COMPRESSED}, id="both"),
    ],
)
async def test_a_claim_is_bounded_in_bytes_before_any_row_was_seen(session, db, count, columns, limit):
    rows = await insert_events(db, count, **columns)
    read: list[int] = []
    while True:
        batch = await take(session, limit, most_bytes=2**20)
        if not batch.rows:
            break
        texts = [text for row in batch.rows for text in (row.payload, row.headers) if text is not None]
        assert sum(map(len, texts)) <= CLAIM_BYTES
        assert not [text for text in texts if text[0] in "!?"]
        assert batch.characters == sum(map(len, texts))
        read += ids(batch)
        # What does not fit is released at once.
        assert await one_row(
            db,
            "SELECT FROM messaging.message_outbox WHERE status = 'pending' HAVING count(*) = %s",
            len(rows) - len(read),
        )
        assert batch.over_budget == (len(batch.rows) < limit and len(read) < len(rows))
    assert read == rows


async def test_rows_that_do_not_fit_and_cannot_be_released_may_be_claimed(session, db):
    """The caller has to know: no error of a statement that did nothing, after which nobody would hold them."""
    rows = await insert_events(db, 12, payload=RANDOM)
    await db.execute("""
        CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON messaging.message_outbox FOR EACH ROW WHEN (NEW.status = 'pending')
            EXECUTE FUNCTION public.refuse()
    """)
    with pytest.raises(SessionLost, match="are claimed, and Postgres refuses to release them"):
        await take(session, most_bytes=2**20)
    assert await statuses(db) == {"picked": len(rows)}


async def test_rows_of_all_sizes_keep_their_order(session, db):
    rows = []
    for payload in (None, RANDOM, None, NUMBERS, COMPRESSED, RANDOM, None, RANDOM, None, RANDOM):
        rows += await insert_events(db, payload=payload or "{}")
    first, second = await take(session, most_bytes=2**20), await take(session, most_bytes=2**20)
    assert (first.over_budget, second.over_budget) == (True, False)
    assert [*ids(first), *ids(second)] == rows
    assert {row.payload for row in (*first.rows, *second.rows) if len(row.payload) > 1000} >= {RANDOM, COMPRESSED}


async def test_one_row_larger_than_the_budget_is_claimed_alone(session, db):
    payload = '"' + RANDOM[1:-1] * 5 + '"'
    rows = await insert_events(db, 2, payload=payload)
    for row in rows:
        batch = await take(session, most_bytes=2**24)
        assert (ids(batch), batch.rows[0].payload) == ([row], payload)


async def test_a_row_that_is_deleted_between_the_claim_and_the_reading(session, db, monkeypatch):
    rows = await insert_events(db, 3, payload=RANDOM)
    fetch = session.fetch

    async def deletes(statement, parameters):
        if statement == load("read_row"):
            await db.execute("DELETE FROM messaging.message_outbox WHERE id = %s", (rows[1],))
        return await fetch(statement, parameters)

    monkeypatch.setattr(session, "fetch", deletes)
    assert ids(await take(session, most_bytes=2**20)) == [rows[0], rows[2]]


@pytest.mark.parametrize("name", ["event_type", "aggregate_type", "aggregate_id"])
async def test_a_long_name_is_cut_in_postgres_and_the_row_is_dead(session, db, name):
    long, longest = dict[str, Any]({name: "é" * 1_000_000}), dict[str, Any]({name: "é" * 1000})
    await insert_events(db, **long)
    await insert_events(db, **longest)
    batch = await take(session)
    assert [len(getattr(row, name)) for row in batch.rows] == [1001, 1000]
    entry = EntryFormat("s", 10, 4002)
    assert [entry.unpublishable(row) for row in batch.rows] == [f"{name} is longer than 1000 characters", None]


async def test_a_claimed_row_is_marked_and_comes_back_whole(session, db):
    [row_id] = await insert_events(db, payload='{"b": 1, "a": "é\\n"}', headers='{"traceparent": "00"}', attempts=3)
    batch = await take(session)
    [row], [stored] = batch.rows, await read_table(db)
    assert (row.id, row.payload, row.headers, row.attempts) == (
        row_id,
        '{"a": "é\\n", "b": 1}',
        '{"traceparent": "00"}',
        3,
    )
    assert (row.event_id, row.message_id) == (str(stored["event_id"]), str(stored["message_id"]))
    assert (row.event_type, row.aggregate_type, row.aggregate_id) == ("order.created", "message", "a1")
    assert row.occurred_at == stored["occurred_at"].astimezone(UTC).replace(tzinfo=None)
    assert 0 <= row.age_s < 60
    assert (stored["status"], str(stored["claim_id"]), stored["picked_by"]) == ("picked", batch.claim_id, 7)
    assert (stored["stream_id"], batch.floor) == ("1748779200000-5",) * 2
    assert stored["occurred_at"] <= stored["picked_at"]


async def test_the_oldest_due_come_first_and_the_first_inserted_of_the_same_time(session, db):
    late = await insert_events(db, 2, next_run_at=NOW - timedelta(seconds=1))
    early = await insert_events(db, 2, next_run_at=NOW - timedelta(seconds=9))
    assert ids(await take(session, 3)) == [*early, late[0]]
    assert ids(await take(session, 3)) == [late[1]]


async def test_it_takes_no_more_than_asked(session, db):
    rows = await insert_events(db, 5, next_run_at=NOW)
    assert ids(await take(session, 3)) == rows[:3]
    assert ids(await take(session, 3)) == rows[3:]
    assert ids(await take(session, 3)) == []


async def test_only_what_is_due_by_the_servers_clock(session, db):
    await insert_events(db, next_run_at="infinity")
    await db.execute(
        "INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload, next_run_at)"
        " VALUES ('t', 'a', '{}', clock_timestamp() + interval '1 hour')"
    )
    [due] = await insert_events(db)
    assert ids(await take(session)) == [due]


async def test_a_parked_row_is_waited_for_by_nobody(session, db):
    """Postgres 16 cannot even subtract infinity from a time: one parked row would fail every look."""
    await insert_events(db, next_run_at="infinity")
    assert await session.fetch(load("due_check"), {"slots": 256, "proof_events": False, "usage": False}) == [
        (None, None)
    ]
    assert await session.fetch(load("doze"), {"slots": 256, "proof_events": False}) == [("asleep", None)]
    [(backlog, age_s, _)] = await session.fetch(load("sample"), {"bound": 10, "now": None})
    assert (backlog, age_s) == (1, 0)


async def test_the_time_can_be_given(session, db):
    [due] = await insert_events(db, next_run_at=NOW)
    assert ids(await take(session, now=NOW - timedelta(microseconds=1))) == []
    assert ids(await take(session, now=NOW)) == [due]
    assert (await read_table(db))[0]["picked_at"] == NOW


@pytest.mark.parametrize("share", [None, EventTypeFilter(["order.created"], only_these=True)])
async def test_an_age_counts_from_when_the_event_could_first_go_out(session, db, share):
    def ago(seconds: int) -> datetime:
        return NOW - timedelta(seconds=seconds)

    rows: dict[str, dict[str, Any]] = {
        "new": {"occurred_at": ago(5), "next_run_at": ago(5)},
        "dated by its producer": {"occurred_at": ago(7), "next_run_at": ago(9)},
        "scheduled, or replayed": {"occurred_at": ago(3600), "next_run_at": ago(2)},
        "failed before": {"occurred_at": ago(60), "next_run_at": ago(1), "status": "retry", "attempts": 1},
        "sent, and put back by a plain UPDATE": {"occurred_at": ago(60), "next_run_at": ago(60), "sent_at": ago(50)},
    }
    named = {(await insert_events(db, **columns))[0]: name for name, columns in rows.items()}
    batch = await take(session, now=NOW, event_types=share)
    assert {named[row.id]: row.age_s for row in batch.rows} == dict(zip(rows, [5.0, 7.0, 2.0, 60.0, 0.0], strict=True))


@pytest.mark.parametrize("status", ["pending", "retry"])
async def test_it_takes_new_rows_and_rows_to_retry(session, db, status):
    rows = await insert_events(db, 2, status=status)
    assert ids(await take(session)) == rows


@pytest.mark.parametrize("status", ["sent", "dead", "picked"])
async def test_it_leaves_what_is_settled_or_held(session, db, status):
    await insert_events(db, 2, status=status, picked_at=NOW)
    assert ids(await take(session)) == []


async def test_a_share_of_the_slots_is_the_same_rows_for_everybody(session, db):
    await insert_events(db, 1000)
    slots = {row["id"]: row["slot"] for row in await read_table(db)}
    ours = sorted(row_id for row_id, slot in slots.items() if slot < 64)
    assert 150 < len(ours) < 350
    assert sorted(ids(await take(session, 1000, slots=64))) == ours
    assert ids(await take(session, 1000, slots=0)) == []
    assert len(ids(await take(session, 1000, slots=256))) == 1000 - len(ours)


async def test_a_cursor_skips_what_stands_before_it_and_the_start_finds_late_commits(session, db):
    rows = await insert_events(db, 4, next_run_at=NOW)
    first = await take(session, 2)
    assert last_index_key(first) == IndexKey(NOW.replace(tzinfo=None), rows[1])
    [late] = await insert_events(db, next_run_at=NOW - timedelta(seconds=1))
    assert ids(await take(session, after=last_index_key(first))) == rows[2:]
    assert ids(await take(session, after=last_index_key(first))) == []
    assert ids(await take(session)) == [late]


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata"])
async def test_the_zone_of_the_server_changes_nothing(session, db, open_session, database_url, zone):
    await db.execute(
        f"ALTER ROLE CURRENT_USER IN DATABASE \"{database_url.rsplit('/', 1)[1]}\" SET timezone = '{zone}'"
    )
    # No Python time in a zone west of Greenwich: reading it there would fail its batch for ever.
    earliest = "0001-01-01 00:00:00+00"
    rows = await insert_events(db, 3, next_run_at=earliest, occurred_at=earliest)
    zoned = await open_session()
    first = await take(zoned, 2)
    assert ids(first) == rows[:2]
    assert first.rows[0].occurred_at == datetime(1, 1, 1)
    assert ids(await take(zoned, 2, after=last_index_key(first))) == rows[2:]


async def test_rows_another_session_holds_are_passed_over(session, db, database_url):
    rows = await insert_events(db, 6, next_run_at=NOW)
    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await other.execute("SELECT FROM messaging.message_outbox WHERE id = ANY(%s) FOR UPDATE", [rows[:4]])
        assert ids(await take(session, 3)) == rows[4:]
    assert ids(await take(session)) == rows[:4]


@pytest.mark.promise("commit-only")
async def test_an_event_is_invisible_until_its_transaction_commits(session, database_url, db):
    async with await psycopg.AsyncConnection.connect(database_url) as producer:
        rows = await insert_events(producer)
        assert ids(await take(session)) == []
    assert ids(await take(session)) == rows


@pytest.mark.promise("one-owner")
async def test_claimers_at_once_take_each_row_exactly_once(open_session, db):
    rows = await insert_events(db, 3000)
    taken: list[list[int]] = []

    async def drain(session: Session) -> None:
        empty = 0
        while empty < 2:  # an empty answer may only mean that the others held what was left
            batch = await take(session, 37)
            taken.append(ids(batch))
            empty = 0 if batch.rows else empty + 1

    sessions = [await open_session() for _ in range(4)]
    async with create_task_group() as group:
        for each in sessions:
            group.start_soon(drain, each)
    assert sorted(row_id for batch in taken for row_id in batch) == rows
    assert await statuses(db) == {"picked": 3000}


async def test_claims_have_tokens_of_their_own(session, db):
    await insert_events(db, 2)
    first, second = await take(session, 1), await take(session, 1)
    assert first.claim_id != second.claim_id
    assert [str(row["claim_id"]) for row in await read_table(db)] == [first.claim_id, second.claim_id]


async def test_a_claim_is_a_heap_only_update(session, db):
    """One changed index entry a claim is what halves the rate of the usual outbox."""
    await insert_events(db, 500, payload='{"text": "%s"}' % ("x" * 300))
    while len(ids(await take(session, 64))):
        pass
    query = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'message_outbox'"
    await becomes(lambda: session.fetch(query), [(500, 500)], "updates and heap-only updates that the session reported")
