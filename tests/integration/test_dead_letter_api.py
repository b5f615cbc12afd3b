"""The dead-letter API of a running dispatcher, over real HTTP."""

import json
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import anyio
import psycopg
import pytest
from prometheus_client import CollectorRegistry

from dispatcher.core.events import DeadRetried, Published, Stopped
from dispatcher.infra.postgres import lazy as on_demand
from dispatcher.service import targets as reach
from dispatcher.sidecar import params
from dispatcher.sidecar.access import AccessControl
from dispatcher.sidecar.app import build
from dispatcher.sidecar.dead_letters import DeadLetters
from tests.support.api import get, post
from tests.support.dead_letters import bury, prune
from tests.support.http import port_of, served
from tests.support.rows import insert_events, one_row, read_stream, read_table, statuses
from tests.support.waiting import becomes, until

CANARY = "canary-7f3a"


async def buried(db: psycopg.AsyncConnection[Any], n: int, **columns: object) -> list[int]:
    """Dead rows whose payload is a canary."""
    ids = await insert_events(db, n, payload=json.dumps(CANARY), **columns)
    await bury(db, ids, "ERR refused")
    return ids


async def test_they_are_listed_counted_and_shown(api, db):
    ids = await buried(db, 3)
    ids += await buried(db, 2, event_type="order.paid", aggregate_type="order", headers=json.dumps({CANARY: 1}))
    async with api() as (client, _):
        page = await get(client, "dead-events")
        assert {name: page[name] for name in page if name != "events"} == {"count": 5, "limit": 100, "offset": 0}
        assert [event["id"] for event in page["events"]] == ids[::-1]
        assert CANARY not in json.dumps(page)
        page = await get(client, "dead-events?limit=1&offset=1&event_type=order.paid&aggregate_type=order")
        assert ([event["id"] for event in page["events"]], page["limit"], page["offset"]) == ([ids[3]], 1, 1)
        assert (await get(client, "dead-events?event_type=&last_error=ERR%20refused"))["count"] == 5
        assert (await get(client, "dead-events?last_error="))["count"] == 0
        page = await get(client, "dead-events?limit=1&payload=1")
        assert (page["events"][0]["payload"], page["events"][0]["headers"]) == (CANARY, {CANARY: 1})
        stats = await get(client, "dead-events/stats?event_type=order.paid")
        [group] = stats["by_error"]
        assert {name: group[name] for name in ("code", "last_error", "count", "texts", "figures", "event_types")} == {
            "code": "ERR refused",
            "last_error": "ERR refused",
            "count": 2,
            "texts": 1,
            "figures": [],
            "event_types": ["order.paid"],
        }
        assert stats == {
            "total": 2,
            "aggregate_type": None,
            "event_type": "order.paid",
            "by_error": [group],
            "by_type": [{"event_type": "order.paid", "aggregate_type": "order", "count": 2}],
        }
        one = await get(client, f"dead-events/{ids[0]}")
        assert (one["id"], one["status"], "payload" in one) == (ids[0], "dead", False)
        assert await get(client, f"dead-events/{one['event_id'].upper()}") == one
        assert (await get(client, f"dead-events/{ids[0]}?payload=1"))["payload"] == CANARY
        for unknown in (10**6, uuid4()):
            assert await get(client, f"dead-events/{unknown}", 404) == {"error": f"no dead event has the id {unknown}"}


@pytest.mark.promise("dead-letter")
@pytest.mark.parametrize("pruned", [False, True])
async def test_a_retry_goes_out_at_once_and_once(api, db, redis, pruned):
    [row_id] = await buried(db, 1)
    [row] = await read_table(db)
    if pruned:
        await prune(db)
    async with api() as (client, running):
        assert await post(client, f"dead-events/{row_id}/retry") == {
            "status": "success",
            "message": f"event {row_id} goes out again",
            "event_id": row_id,
        }
        assert await running.tap.next(DeadRetried) == DeadRetried((row_id,), "127.0.0.1")
        await running.tap.next(Published)
        for name in (row_id, row["event_id"]):
            said = await post(client, f"dead-events/{name}/retry", status=404)
            assert said["error"].startswith(f"no dead event has the id {name};")
        assert (await get(client, "dead-events"))["events"] == []
    assert [entry["event_id"] for entry in await read_stream(redis)] == [str(row["event_id"])]
    assert await statuses(db) == {"sent": 1}
    assert len(running.tap.all(DeadRetried)) == 1


async def test_a_batch_says_how_many_and_which_not(api, db):
    ids = await buried(db, 4)
    names: dict[int, UUID] = {row["id"]: row["event_id"] for row in await read_table(db)}
    await prune(db)
    ids += await buried(db, 2)
    stranger = str(uuid4())
    async with api(enabled=False) as (client, running):  # nobody publishes them here, but they may be put back
        asked_for = [ids[0], str(names[ids[0]]), str(names[ids[1]]), ids[4], ids[4], 999, stranger]
        assert await post(client, "dead-events/retry-batch", {"event_ids": asked_for}) == {
            "status": "success",
            "message": "3 of 6 events to go out again; the others are not dead (any more)",
            "requested": 7,
            "processed": 3,
            "not_dead": [999, stranger],
        }
        assert (await running.tap.next(DeadRetried)).ids == (ids[0], ids[1], ids[4])
        done = await post(client, "dead-events/retry-batch", {"event_ids": [*ids[:2], float(ids[2]), *ids[3:]]})
        assert (done["processed"], done["not_dead"]) == (3, [ids[0], ids[1], ids[4]])
        none = await post(client, "dead-events/retry-batch", {"event_ids": ids})
        assert (none["processed"], none["requested"]) == (0, 6)
    assert await statuses(db) == {"pending": 6}


WRONG_QUERIES = {
    "dead-events?limit=0": "limit must be a whole number from 1 to 1000",
    "dead-events?limit=1001": "limit must be a whole number from 1 to 1000",
    "dead-events?limit=": "limit must be",
    "dead-events?limit=1.0": "limit must be",
    "dead-events?limit=%D9%A3": "limit must be",
    "dead-events?offset=-1": "offset must be",
    "dead-events?offset=1000000001": "offset must be",
    "dead-events?payload=yes": "payload must be 1 or 0",
    "dead-events?limit=1&limit=2": "limit is given more than once",
    "dead-events?limits=1": "'limits' is not a parameter here; there is: limit, offset",
    "dead-events?event_type=%00": "event_type must be text without NUL",
    "dead-events/stats?limit=1": "'limit' is not a parameter here",
    "dead-events/0": "the event's id must be the number of a row",
    "dead-events/9223372036854775808": "the event's id must be",
    "dead-events/x": "the event's id must be",
    "dead-events/7?limit=1": "'limit' is not a parameter here",
}
WRONG_BODIES: list[tuple[bytes, str]] = [
    (b"", "the body is not JSON"),
    (b"{", "the body is not JSON"),
    (b"\xff", "the body is not JSON"),
    (b"[" * 60_000, "the body is not JSON"),
    (b"[1]", "the body must be a JSON object with event_ids, by, reason"),
    (b"{}", 'the body must be a JSON object {"event_ids": [...]}'),
    (b'{"event_ids": 7}', "the body must be"),
    (b'{"event_ids": [7], "x": 1}', "'x' is not a field here; there is: event_ids, by, reason"),
    (b'{"event_ids": [7], "by": 1}', "by must be text"),
    (json.dumps({"event_ids": [7], "reason": "x" * 201}).encode(), "reason must have at most 200 characters"),
    (b'{"event_ids": []}', "event_ids must have 1 to 1000 ids; there are 0"),
    (json.dumps({"event_ids": [1] * 1001}).encode(), "there are 1001"),
    *(
        (b'{"event_ids": [1, %s]}' % wrong, "event_ids[1] must be the number of a row")
        for wrong in (b"0", b"-1", b"true", b"null", b"1.5", b"1e999", b"9223372036854775808", b'"7"', b'"x"', b"[1]")
    ),
]


async def test_what_is_wrong_is_said(api, db):
    async with api() as (client, _):
        for path, error in WRONG_QUERIES.items():
            assert (await get(client, path, 400))["error"].startswith(error), path
        for name in ("0", "x", "7?payload=1"):
            path, _, query = name.partition("?")
            await post(client, f"dead-events/{path}/retry?{query}", status=400)
        declared = {"Content-Type": "application/json"}
        for body, error in WRONG_BODIES:
            async with client.post("dead-events/retry-batch", data=body, headers=declared) as answer:
                assert (answer.status, error in (await answer.json())["error"]) == (400, True), body[:40]
        async with client.post("dead-events/retry-batch", data=b'{"event_ids": [1]}') as answer:
            assert (answer.status, "application/json" in (await answer.json())["error"]) == (415, True)
        async with client.post("dead-events/retry-batch", data=b" " * 65_537, headers=declared) as answer:
            assert (answer.status, "error" in await answer.json()) == (413, True)


async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    async def fetch(*_: Any) -> Any:
        raise AssertionError("a request without a body asks Postgres for nothing")

    monkeypatch.setattr(params, "BODY_S", 0.05)
    routes = DeadLetters(fetch, lambda event: None, lambda: None).routes()
    site = build(lambda: None, CollectorRegistry(), guard=AccessControl(listens_on="127.0.0.1"), routes=routes)
    async with served(site) as client, await anyio.connect_tcp("127.0.0.1", port_of(client)) as stream:
        await stream.send(
            b"POST /api/dead-events/retry-batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 10\r\n\r\n{"
        )
        assert (await stream.receive()).startswith(b"HTTP/1.1 408 ")


@pytest.mark.promise("http")
async def test_a_question_that_hangs_holds_up_no_event(api, db, redis, monkeypatch):
    monkeypatch.setattr(on_demand, "QUEUE", 4)
    monkeypatch.setattr(on_demand, "PATIENCE_S", 60.0)
    monkeypatch.setattr(reach, "API_TIMEOUT_S", 60.0)
    await buried(db, 1)
    found: list[int] = []

    async def ask(client: aiohttp.ClientSession) -> None:
        async with client.get("dead-events") as answer:
            found.append(answer.status)
            if answer.status == 503:
                assert "waiting for Postgres" in (await answer.json())["error"]

    async with api() as (client, running):
        await get(client, "dead-events")  # the session is open
        await insert_events(db, 1)
        await running.tap.next(Published)  # and so is everything else
        async with anyio.create_task_group() as asking:
            await db.execute("BEGIN")
            await db.execute("LOCK TABLE messaging.message_dlq IN ACCESS EXCLUSIVE MODE")
            for _ in range(12):
                asking.start_soon(ask, client)
            await until(lambda: len(found) >= 8, "eight were refused")
            async with await psycopg.AsyncConnection.connect(db.info.dsn, autocommit=True) as producer:
                await insert_events(producer, 1)
            await running.tap.next(Published)
            assert found == [503] * 8
            await db.execute("ROLLBACK")
    assert sorted(found) == [200] * 4 + [503] * 8


async def test_a_session_that_breaks_is_replaced(api, db):
    await buried(db, 1)
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'dispatcher api %'"
    async with api() as (client, _):
        await get(client, "dead-events")
        assert await (await db.execute(end)).fetchall() == [(True,)]
        async with client.get("dead-events") as answer:
            if answer.status != 200:  # it had not been noticed before
                assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert (await get(client, "dead-events"))["count"] == 1


async def test_a_role_from_before_this_release_may_retry_rows_and_is_told_about_copies(api, db, database_url):
    role = f"older_{uuid4().hex[:8]}"
    kept, pruned = await buried(db, 2)
    await db.execute(
        "UPDATE messaging.message_outbox SET occurred_at = '2025-01-01', picked_at = '2025-01-01' WHERE id = %s",
        [pruned],
    )
    await db.execute("CALL messaging.prune_message_outbox('1 day')")
    await db.execute(f"CREATE ROLE {role}")
    try:
        await db.execute(f"GRANT USAGE ON SCHEMA messaging TO {role}")
        await db.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA messaging TO {role}")
        await db.execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA messaging TO {role}")
        await db.execute(f"REVOKE INSERT ON messaging.message_outbox FROM {role}")
        async with api(enabled=False, database_url=f"{database_url}?options=-crole%3D{role}") as (client, _):
            done = await post(client, "dead-events/retry-batch", {"event_ids": [kept, pruned]})
            assert (done["processed"], done["not_dead"], "sql roles" in done["message"]) == (1, [pruned], True)
            assert "sql roles" in (await post(client, f"dead-events/{pruned}/retry", status=503))["error"]
    finally:
        await db.execute(f"DROP OWNED BY {role}")
        await db.execute(f"DROP ROLE {role}")


async def test_a_stop_does_not_wait_for_a_question(api, db, monkeypatch):
    monkeypatch.setattr(on_demand, "GRACE_S", 0.05)
    monkeypatch.setattr(reach, "API_TIMEOUT_S", 600.0)
    found: list[int] = []

    async def ask(client: aiohttp.ClientSession) -> None:
        try:
            async with client.get("dead-events") as answer:
                found.append(answer.status)
        except aiohttp.ClientError:
            found.append(0)

    locked = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'messaging.message_dlq'::regclass"
    async with await psycopg.AsyncConnection.connect(db.info.dsn) as other, anyio.create_task_group() as asking:
        await other.execute("LOCK TABLE messaging.message_dlq IN ACCESS EXCLUSIVE MODE")
        async with api(enabled=False, query_timeout_ms=600_000) as (client, running):
            asking.start_soon(ask, client)
            await until(lambda: one_row(db, locked), "the question waits for the lock")
            with anyio.fail_after(60):  # the statement may take ten minutes
                running.service.stop("the test says so")
                await running.tap.next(Stopped)
        await other.rollback()
    assert found in ([0], [503])


async def test_the_session_is_closed_when_nobody_asks(api, monkeypatch, db):
    monkeypatch.setattr(on_demand, "IDLE_S", 0.02)
    ours = "SELECT FROM pg_stat_activity WHERE application_name LIKE 'dispatcher api %'"
    async with api() as (client, _):
        for _ in range(2):
            await get(client, "dead-events")

            async def sessions() -> int:
                return int((await db.execute(ours)).rowcount)

            await becomes(sessions, 0, "the number of its sessions")


async def test_without_postgres_it_says_so_and_does_not_ask_again_at_once(api, proxy, database_url):
    between = await proxy(database_url)
    async with api(database_url=between.via(database_url)) as (client, _):
        between.refuse()
        first = await get(client, "dead-events", 503)
        assert "Postgres" in first["error"]
        assert await get(client, "dead-events", 503) == first
