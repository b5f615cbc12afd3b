"""A settle writes what became of the rows its claim still holds, and nothing else."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from dispatcher.core.decide import brief
from dispatcher.core.outcome import BatchOutcomes, FailedAttempt, FailedForGood, Outcome, Released, Sent, Unknown
from dispatcher.core.row import Batch
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.stages.claim import claim, new_claim_id
from dispatcher.stages.settle import Settlement, release, settle
from tests.support.rows import insert_events, read_table, statuses

pytestmark = pytest.mark.both_versions

NOW = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)
NONE: frozenset[int] = frozenset()
REPLAY = (
    "UPDATE messaging.message_outbox SET status='pending', attempts=0, last_error=NULL, picked_at=NULL"
    " WHERE status='dead'"
)
COPIED = ("event_id", "message_id", "event_type", "aggregate_type", "aggregate_id", "payload", "headers", "occurred_at")


@pytest.fixture
async def session(database_url: str) -> AsyncIterator[Session]:
    session = await connect(PostgresTarget(database_url, "test"), "lane")
    yield session
    await session.close()


async def take(session: Session) -> Batch:
    return await claim(session, claim_id=new_claim_id(), dispatcher=7, limit=100, floor="5-0")


def decided(outcomes: dict[int, Outcome]) -> BatchOutcomes:
    made = BatchOutcomes()
    for row_id, outcome in outcomes.items():
        made.add(row_id, outcome)
    return made


@pytest.mark.promise("own-failure")
async def test_each_outcome_is_written_down(session, db):
    rows = await insert_events(db, 5, next_run_at=NOW)
    batch = await take(session)
    outcomes: list[Outcome] = [
        Sent("9-1"),
        FailedAttempt(2.5, "ERR one"),
        FailedForGood("ERR two"),
        Released("OOM"),
        Unknown("cut"),
    ]
    settlement = await settle(
        session, batch.claim_id, decided(dict(zip(rows, outcomes, strict=True))), now=NOW + timedelta(seconds=1)
    )
    assert settlement == Settlement(sent=1, retried=1, dead=1, released=1, not_ours=NONE)
    sent, retry, dead, released, unknown = await read_table(db)

    assert (sent["status"], sent["stream_id"], sent["sent_at"]) == ("sent", "9-1", NOW + timedelta(seconds=1))
    assert (sent["attempts"], sent["last_error"], sent["settled"]) == (0, None, True)

    assert (retry["status"], retry["attempts"], retry["last_error"]) == ("retry", 1, "ERR one")
    assert (retry["next_run_at"], retry["stream_id"]) == (NOW + timedelta(seconds=3.5), None)

    assert (dead["status"], dead["attempts"], dead["last_error"], dead["settled"]) == ("dead", 1, "ERR two", True)

    assert (released["status"], released["attempts"], released["next_run_at"]) == ("pending", 0, NOW)
    assert [released[column] for column in ("picked_at", "picked_by", "claim_id", "stream_id")] == [None] * 4

    assert (unknown["status"], str(unknown["claim_id"]), unknown["stream_id"]) == ("picked", batch.claim_id, "5-0")


async def test_sending_clears_the_error_of_an_earlier_try(session, db):
    [row] = await insert_events(db, status="retry", attempts=2, last_error="ERR before")
    await settle(session, (await take(session)).claim_id, decided({row: Sent("9-1")}))
    [stored] = await read_table(db)
    assert (stored["attempts"], stored["last_error"]) == (2, None)


@pytest.mark.promise("one-owner")
@pytest.mark.parametrize("outcome", [Sent("9-1"), FailedAttempt(1, "e"), FailedForGood("e"), Released("e")])
async def test_a_claim_that_was_lost_changes_nothing(session, db, outcome):
    rows = await insert_events(db, 2)
    stale = await take(session)
    await release(session, [stale.claim_id])
    current = await take(session)
    before = await read_table(db)
    settlement = await settle(session, stale.claim_id, decided(dict.fromkeys(rows, outcome)))
    assert settlement == Settlement(0, 0, 0, 0, frozenset(rows))
    assert await read_table(db) == before
    assert await read_table(db, "message_dlq") == []
    assert str(before[0]["claim_id"]) == current.claim_id


async def test_only_the_rows_that_were_lost_are_reported_lost(session, db):
    kept, gone = await insert_events(db, 2)
    batch = await take(session)
    await db.execute("UPDATE messaging.message_outbox SET status = 'pending' WHERE id = %s", [gone])
    settlement = await settle(session, batch.claim_id, decided({kept: Sent("9-1"), gone: Sent("9-2")}))
    assert settlement == Settlement(1, 0, 0, 0, frozenset({gone}))


@pytest.mark.parametrize("outcome", [Sent("9-1"), FailedAttempt(1, "e"), FailedForGood("e"), Released("e")])
async def test_settling_twice_changes_nothing_more(session, db, outcome):
    [row] = await insert_events(db)
    batch = await take(session)
    await settle(session, batch.claim_id, decided({row: outcome}))
    before = await read_table(db), await read_table(db, "message_dlq")
    again = await settle(session, batch.claim_id, decided({row: outcome}))
    assert again == Settlement(0, 0, 0, 0, frozenset({row}))
    assert (await read_table(db), await read_table(db, "message_dlq")) == before


async def test_nothing_to_settle_is_no_statement(session):
    await session.close()
    assert await settle(session, new_claim_id(), BatchOutcomes()) == Settlement(0, 0, 0, 0, NONE)


async def test_a_burial_keeps_a_copy_of_the_whole_row(session, db):
    [row] = await insert_events(db, headers='{"traceparent": "00"}', status="retry", attempts=9)
    batch = await take(session)
    await settle(session, batch.claim_id, decided({row: FailedForGood("ERR last")}), now=NOW)
    [stored], [copy] = await read_table(db), await read_table(db, "message_dlq")
    assert {column: copy[column] for column in COPIED} == {column: stored[column] for column in COPIED}
    assert (copy["outbox_id"], copy["attempts"], copy["last_error"], copy["died_at"]) == (row, 10, "ERR last", NOW)
    assert (copy["replayed_at"], copy["replay_count"]) == (None, 0)


@pytest.mark.promise("own-failure")
async def test_a_row_is_dead_exactly_when_its_copy_is_there(session, db):
    """One statement: where the copy cannot be written, the row does not die."""
    [row] = await insert_events(db)
    batch = await take(session)
    await db.execute("ALTER TABLE messaging.message_dlq ADD CONSTRAINT never CHECK (false) NOT VALID")
    with pytest.raises(Exception, match="never"):
        await settle(session, batch.claim_id, decided({row: FailedForGood("e")}))
    assert await statuses(db) == {"picked": 1}


async def test_a_row_replayed_by_a_plain_update_and_dead_again_renews_its_copy(session, db):
    [row] = await insert_events(db, status="retry", attempts=4)
    await settle(session, (await take(session)).claim_id, decided({row: FailedForGood("first")}), now=NOW)
    await db.execute(REPLAY)
    later = NOW + timedelta(days=1)
    await settle(session, (await take(session)).claim_id, decided({row: FailedForGood("second")}), now=later)
    [copy] = await read_table(db, "message_dlq")
    assert (copy["last_error"], copy["died_at"], copy["attempts"], copy["replay_count"]) == ("second", later, 1, 1)


async def test_a_row_replayed_through_its_copy_and_dead_again_gets_a_new_one(session, db):
    [row] = await insert_events(db)
    await settle(session, (await take(session)).claim_id, decided({row: FailedForGood("first")}))
    await db.execute("UPDATE messaging.message_dlq SET replayed_at = now(), replay_count = 1")
    await db.execute(REPLAY)
    await settle(session, (await take(session)).claim_id, decided({row: FailedForGood("second")}))
    assert [copy["last_error"] for copy in await read_table(db, "message_dlq")] == ["first", "second"]


async def test_released_rows_are_as_they_were(session, db):
    [fresh] = await insert_events(db, next_run_at=NOW)
    [tried] = await insert_events(db, next_run_at=NOW, status="retry", attempts=3, last_error="ERR before")
    before = await read_table(db)
    batch = await take(session)
    assert await release(session, [batch.claim_id]) == {fresh, tried}
    assert await read_table(db) == before


async def test_release_takes_some_rows_of_a_claim_or_all_of_several(session, db):
    first = await insert_events(db, 3)
    one = await take(session)
    second = await insert_events(db, 2)
    other = await take(session)
    assert await release(session, [one.claim_id], first[:1]) == {first[0]}
    assert await release(session, [one.claim_id], second) == NONE
    assert await release(session, [one.claim_id, other.claim_id]) == {*first[1:], *second}
    assert await release(session, [one.claim_id, other.claim_id]) == NONE
    assert await statuses(db) == {"pending": 5}


async def test_release_leaves_what_is_settled(session, db):
    rows = await insert_events(db, 2)
    batch = await take(session)
    await settle(session, batch.claim_id, decided({rows[0]: Sent("9-1"), rows[1]: FailedForGood("e")}))
    assert await release(session, [batch.claim_id]) == NONE
    assert await statuses(db) == {"sent": 1, "dead": 1}


@pytest.mark.parametrize("kind", ["retry", "dead"])
async def test_an_error_of_any_length_and_alphabet_is_stored(session, db, kind):
    [row] = await insert_events(db)
    error = brief("é{},\"'\\ " * 500)
    outcome = FailedAttempt(0, error) if kind == "retry" else FailedForGood(error)
    await settle(session, (await take(session)).claim_id, decided({row: outcome}))
    [stored] = await read_table(db)
    assert stored["last_error"] == error
    assert len(error) == 500
