"""sql/roles.sql: each role can do its job, its doorbell included, and none can do another's."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import psycopg
import pytest
from psycopg import sql

from dispatcher.client import Event, add_event_async
from dispatcher.infra import sqlfiles
from tests.support.psql import psql

pytestmark = pytest.mark.both_versions

ROLES = Path(__file__).parents[2] / "sql" / "roles.sql"
INSERT = "INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload) VALUES ('a', 'b', '{}')"
CLAIM_ID = "11111111-1111-1111-1111-111111111111"
PARAMETERS: dict[str, object] = {
    "now": None,
    "dispatcher": 1,
    "claim_id": CLAIM_ID,
    "claim_ids": [CLAIM_ID],
    "floor": None,
    "mark": None,
    "after_time": "-infinity",
    "after_id": 0,
    "fresh_time": "-infinity",
    "fresh_id": 0,
    "fresh": 10,
    "slots": 256,
    "proof_events": False,
    "limit": 10,
    "most_bytes": 1_048_576,
    "window": 10,
    "rows": [1],
    "picked_at": ["2025-06-01 00:00:00+00"],
    "ids": [1],
    "errors": ["refused"],
    "places": [None],
    "costs": [1],
    "delays": [1.0],
    "stream_ids": ["1-1"],
    "stream": None,
    "streams": ["s"],
    "layout": "",
    "run_id": None,
    "replid": None,
    "several": False,
    "may_fall": False,
    "left_out": [1],
    "escaped": False,
    "life": None,
    "self": 1,
    "owner": 1,
    "claims": [CLAIM_ID],
    "picked_without_claim": False,
    "still_claims": [CLAIM_ID],
    "still_at": ["2025-06-01 00:00:00+00"],
    "usage": True,
}
Role = Literal["outbox_producer", "outbox_dispatcher", "outbox_pruner"]


@pytest.fixture
async def roles(database_url: str, db: psycopg.AsyncConnection) -> AsyncIterator[psycopg.AsyncConnection]:
    """A superuser's connection to a database with one row and the roles, made twice. They are dropped at the end."""
    for _ in range(2):
        psql(database_url, "-f", str(ROLES))
    await db.execute(INSERT)
    yield db
    await db.execute("RESET ROLE")
    for role in ("outbox_producer", "outbox_dispatcher", "outbox_pruner"):
        await db.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
        await db.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


async def act_as(db: psycopg.AsyncConnection, role: Role) -> None:
    await db.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))


async def test_a_producer_writes_events(roles: psycopg.AsyncConnection) -> None:
    await act_as(roles, "outbox_producer")
    for statement in (
        INSERT,
        f"{INSERT} RETURNING id, event_id",
        INSERT.replace(") VALUES", ", event_id) VALUES").replace(
            "'{}')", "'{}', gen_random_uuid()) ON CONFLICT (event_id) DO NOTHING"
        ),
        "INSERT INTO messaging.message_outbox (aggregate_type, aggregate_id, event_type, payload, headers, status, "
        "attempts, next_run_at, occurred_at, message_id) "
        "VALUES ('a', 'b', 'c', '{}', '{}', 'pending', 0, now(), now(), gen_random_uuid())",
    ):
        assert (await roles.execute(statement)).rowcount == 1
    async with roles.transaction():
        await add_event_async(roles, Event(event_type="a", aggregate_id="b", payload={}))


async def test_a_producer_may_copy_events(roles: psycopg.AsyncConnection) -> None:
    await act_as(roles, "outbox_producer")
    copy = "COPY messaging.message_outbox (event_type, aggregate_id, payload) FROM STDIN"
    async with roles.cursor() as cursor, cursor.copy(copy) as sink:
        await sink.write_row(("a", "b", "{}"))


async def test_a_producers_commit_rings_the_doorbell(roles: psycopg.AsyncConnection, database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as sleeper:
        await sleeper.execute("SELECT pg_advisory_lock(1869968482, 1)")
        await sleeper.execute("LISTEN outbox_doorbell")
        await act_as(roles, "outbox_producer")
        await roles.execute(INSERT)
        async for notice in sleeper.notifies(timeout=60, stop_after=1):
            assert notice.channel == "outbox_doorbell"
            return
    pytest.fail("the doorbell was not rung")


@pytest.mark.parametrize(
    "name",
    [
        "claim",
        "due_check",
        "doze",
        "list_claims",
        "adopt",
        "renew_claims",
        "release",
        "settle_sent",
        "settle_retry",
        "settle_dead",
    ],
)
async def test_a_dispatcher_runs_each_statement_of_the_relay(roles: psycopg.AsyncConnection, name: str) -> None:
    if name.startswith(("settle", "release", "adopt", "renew")):
        await roles.execute(
            "UPDATE messaging.message_outbox "
            "SET status = 'picked', picked_at = now(), picked_by = 1, claim_id = %(claim_id)s",
            PARAMETERS,
        )
    await act_as(roles, "outbox_dispatcher")
    result = await roles.execute(sqlfiles.load(name).encode(), PARAMETERS)
    assert len(await result.fetchall()) == 1


async def test_a_dispatcher_claims_in_order(roles: psycopg.AsyncConnection) -> None:
    await roles.execute("UPDATE messaging.slot_owner SET owner = 1")
    await act_as(roles, "outbox_dispatcher")
    parameters = PARAMETERS | {
        "mask": "\\x" + "ff" * 32, "owned": 256, "epochs": 0, "running": [], "parked": [], "by_id": [],
        "waiting_types": [], "hold": False, "most": 10, "pids": [1], "types": [], "handled": False,
    }  # fmt: skip
    for name, rows in {"peek": 1, "claim": 1, "claim_chosen": 0, "held_load": 0, "held_check": 1}.items():
        statement = sqlfiles.load(name, split=True, sharded=True, ordered=True)
        assert len(await (await roles.execute(statement.encode(), parameters)).fetchall()) == rows, name
    for name in ("writers", "mark_announced"):
        await roles.execute(sqlfiles.load(name).encode(), parameters)


async def test_a_dispatcher_owns_slots_and_takes_them_over(roles: psycopg.AsyncConnection) -> None:
    await act_as(roles, "outbox_dispatcher")
    parameters = {
        "self": 7,
        "owner": 7,
        "wanted": [1, 2],
        "may_own": 256,
        "seen_at": None,
        "token": "t",
        "at_epochs": None,
    }
    for name, rows in {
        "slots_state": 1,
        "slots_take": 2,
        "ring_owners": 0,
        "slots_release": 2,
        "slots_revoke": 0,
        "sessions_of": 0,
        "slots_summary": 1,
        "slots_free": 0,
    }.items():
        assert len(await (await roles.execute(sqlfiles.load(name).encode(), parameters)).fetchall()) == rows, name
    await roles.execute(sqlfiles.load("slots_fenced").encode(), parameters)


async def test_a_dispatcher_may_prune_and_keep_its_own_tables(roles: psycopg.AsyncConnection) -> None:
    await act_as(roles, "outbox_dispatcher")
    for statement in (
        "INSERT INTO messaging.dispatcher (name) VALUES ('d') RETURNING id",
        "UPDATE messaging.dispatcher SET seen_at = clock_timestamp()",
        "DELETE FROM messaging.dispatcher",
        "DELETE FROM messaging.message_outbox WHERE settled",
        "UPDATE messaging.message_dlq SET replayed_at = clock_timestamp()",
        "CALL messaging.prune_message_outbox('7 days')",
        "CALL messaging.prune_message_dlq('30 days')",
        "SELECT pg_notification_queue_usage()",
        "INSERT INTO messaging.pause (generation, paused) VALUES (1, true)",
        "UPDATE messaging.pause SET paused = false",
        "INSERT INTO messaging.pause_acknowledgement (name, generation, in_flight) VALUES ('d', 1, 0)",
        "DELETE FROM messaging.pause_acknowledgement",
    ):
        await roles.execute(statement)


async def test_a_dispatcher_finds_dead_events_and_puts_them_back(roles: psycopg.AsyncConnection) -> None:
    asked: dict[str, object] = {
        "id": 1,
        "event_id": None,
        "before_id": None,
        "event_type": None,
        "aggregate_type": None,
        "last_error": None,
        "error_code": None,
        "aggregate_id": None,
        "error_like": None,
        "by": None,
        "reason": None,
        "limit": 10,
        "offset": 0,
        "payload": True,
        "at_most": 10_000,
        "groups": 10,
        "now": None,
        "ids": [1],
        "event_ids": [],
    }

    async def rows(name: str) -> int:
        return len(await (await roles.execute(sqlfiles.load(name).encode(), asked)).fetchall())

    await roles.execute("UPDATE messaging.message_outbox SET status = 'dead'")
    await act_as(roles, "outbox_dispatcher")
    assert [await rows(name) for name in ("dead_list", "dead_show", "dead_stats", "dead_retry")] == [1, 1, 1, 1]
    await roles.execute("UPDATE messaging.message_outbox SET status = 'dead'")
    await roles.execute("CALL messaging.prune_message_outbox('0')")
    assert [await rows(name) for name in ("dead_show", "dead_retry", "dead_retry_copy")] == [1, 0, 1]


async def test_a_pruner_prunes_what_there_is_to_prune(roles: psycopg.AsyncConnection) -> None:
    await roles.execute("UPDATE messaging.message_outbox SET status = 'dead', occurred_at = now() - interval '8 days'")
    await roles.execute(f"{INSERT} RETURNING id")
    await roles.execute(
        "INSERT INTO messaging.message_dlq (outbox_id, event_id, message_id, event_type, aggregate_type, aggregate_id, "
        "payload, attempts, occurred_at) "
        "SELECT id, event_id, message_id, event_type, aggregate_type, aggregate_id, payload, 1, occurred_at "
        "FROM messaging.message_outbox WHERE status = 'pending'"
    )
    await roles.execute(
        "UPDATE messaging.message_outbox SET status = 'sent', sent_at = now() - interval '8 days' "
        "WHERE status = 'pending'"
    )
    await act_as(roles, "outbox_pruner")
    await roles.execute("CALL messaging.prune_message_outbox('7 days')")
    count = "SELECT (SELECT count(*) FROM messaging.message_outbox), (SELECT count(*) FROM messaging.message_dlq)"
    assert await (await roles.execute(count)).fetchone() == (0, 2)
    await roles.execute("CALL messaging.prune_message_dlq('0')")
    assert await (await roles.execute(count)).fetchone() == (0, 0)


DENIED: list[tuple[Role, str]] = [
    ("outbox_producer", "SELECT payload FROM messaging.message_outbox"),
    ("outbox_producer", "UPDATE messaging.message_outbox SET status = 'sent'"),
    ("outbox_producer", "DELETE FROM messaging.message_outbox"),
    ("outbox_producer", "TRUNCATE messaging.message_outbox"),
    ("outbox_producer", INSERT.replace(") VALUES", ", claim_id) VALUES").replace("'{}')", "'{}', gen_random_uuid())")),
    ("outbox_producer", "SELECT FROM messaging.message_dlq"),
    ("outbox_producer", "SELECT FROM messaging.dispatcher"),
    ("outbox_producer", "CALL messaging.prune_message_outbox('7 days')"),
    ("outbox_producer", "CALL messaging.prune_message_dlq('30 days')"),
    ("outbox_dispatcher", INSERT.replace(") VALUES", ", status) VALUES").replace("'{}')", "'{}', 'sent')")),
    ("outbox_dispatcher", "UPDATE messaging.message_outbox SET payload = '{}'"),
    ("outbox_dispatcher", "UPDATE messaging.message_outbox SET event_id = gen_random_uuid()"),
    ("outbox_dispatcher", "TRUNCATE messaging.message_outbox"),
    ("outbox_dispatcher", "DROP TABLE messaging.message_outbox"),
    ("outbox_dispatcher", "CREATE TABLE messaging.x ()"),
    ("outbox_producer", "INSERT INTO messaging.pause (generation, paused) VALUES (1, true)"),
    ("outbox_dispatcher", "DELETE FROM messaging.pause"),
    ("outbox_pruner", "UPDATE messaging.pause SET paused = true"),
    ("outbox_pruner", INSERT),
    ("outbox_pruner", "UPDATE messaging.message_outbox SET status = 'pending'"),
    ("outbox_pruner", "UPDATE messaging.message_dlq SET payload = '{}'"),
    ("outbox_pruner", "SELECT FROM messaging.dispatcher"),
    ("outbox_pruner", "CREATE TABLE messaging.x ()"),
]


@pytest.mark.promise("roles")
async def test_none_does_anothers_job(roles: psycopg.AsyncConnection) -> None:
    allowed = []
    for role, statement in DENIED:
        await act_as(roles, role)
        try:
            await roles.execute(statement)
        except psycopg.errors.InsufficientPrivilege:
            continue
        allowed.append((role, statement))
    assert allowed == []
