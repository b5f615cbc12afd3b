"""`dispatcher prove`: proof events through real servers, beside dispatchers that work; what is missing is seen."""

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import anyio
import psycopg
import pytest

from dispatcher.core.events import Settled
from dispatcher.infra.postgres import locks
from tests.support.child import StartCli
from tests.support.command import HearCommand, RunCommand
from tests.support.proof import is_proven
from tests.support.rows import STREAM, insert_events
from tests.support.running import StartDispatcher
from tests.support.waiting import until

if TYPE_CHECKING:
    from redis.asyncio import Redis

CANARIES = f"{STREAM}:prove"
SHORT = ("--seconds", "2", "--json")


async def proof(heard: HearCommand, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the report; progress goes to standard error."""
    code, out, _ = await heard("prove", *arguments)
    return code, json.loads(out)


async def test_beside_a_dispatcher_it_proves_and_leaves_nothing(
    heard: HearCommand, dispatcher: StartDispatcher, db: psycopg.AsyncConnection, redis: "Redis"
) -> None:
    async with dispatcher(tick_ms=100) as running:
        await insert_events(db, 5)
        await running.tap.next(Settled)
        code, report = await proof(heard, *SHORT)
        assert not any(event.lost for event in running.tap.all(Settled))
    assert is_proven(code, report["reasons"]), report
    assert report["proven"] == (report["reasons"] == [])
    assert (report["committed"], report["received"], report["rows"]) == (100, 100, {"sent": 100})
    assert report["left_behind"] == []
    assert await redis.keys("*") == [STREAM]
    assert await redis.xlen(STREAM) == 5  # no consumer of it got a proof event
    [(rows,)] = await (await db.execute("SELECT count(*) FROM messaging.message_outbox")).fetchall()
    assert rows == 5


async def test_it_ends_its_own_connections(heard: HearCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatcher.prove.traffic.DISTURB_EVERY_S", 1.5)  # one that is not back yet has another turn
    code, report = await proof(heard, "--disturb", "--seconds", "16", "--json")
    assert is_proven(code, report["reasons"]), report
    assert {"session control", "session lane-0", "connection to Redis"} <= set(report["disturbed"])
    assert (report["lost"], report["duplicated"]) == (0, 0)


async def test_what_somebody_takes_away_is_lost(heard: HearCommand, redis: "Redis") -> None:
    done = anyio.Event()

    async def thief() -> None:
        while not done.is_set():
            await redis.xtrim(CANARIES, maxlen=0)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(thief)
        code, report = await proof(heard, "--seconds", "1", "--rate", "100", "--json")
        done.set()
    assert code == 1
    assert report["lost"] > 0
    assert any("never reached the stream" in reason for reason in report["reasons"])


async def test_an_entry_that_comes_twice_is_seen(heard: HearCommand, redis: "Redis") -> None:
    done = anyio.Event()

    async def echo() -> None:
        after = "0-0"
        while not done.is_set():
            came: Any = await redis.xread({CANARIES: after}, block=100)
            for entry, fields in [each for _, entries in came for each in entries]:
                if "again" not in fields:
                    await redis.xadd(CANARIES, {**fields, "again": "yes"})
                after = entry

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(echo)
        code, report = await proof(heard, *SHORT)
        done.set()
    assert code == 1
    assert report["duplicated"] > 0


async def test_no_dispatcher_takes_a_proof_event_and_none_is_late(
    dispatcher: StartDispatcher, heard: HearCommand, db: psycopg.AsyncConnection
) -> None:
    await insert_events(db, 3, event_type="dispatcher.prove")
    async with dispatcher(tick_ms=50) as running:
        await insert_events(db, 1)
        settled = await running.tap.next(Settled)
        assert settled.sent == 1
    _, output, _ = await heard("doctor")
    assert "ok: backlog: the oldest unsettled row is 0.0 s overdue" in output
    code, report = await proof(heard, *SHORT)  # removes what one that was killed left
    assert is_proven(code, report["reasons"]), report
    [(left,)] = await (await db.execute("SELECT count(*) FROM messaging.message_outbox WHERE NOT settled")).fetchall()
    assert left == 0


async def test_a_second_one_waits_for_its_turn(command: RunCommand, db: psycopg.AsyncConnection) -> None:
    """Each would delete what the other has yet to count."""
    await db.execute(f"SELECT pg_advisory_lock({locks.PROVING})")
    code, output = await command("prove", *SHORT)
    assert code == 2
    assert "another `dispatcher prove` runs" in output


async def test_a_stream_that_may_not_be_looked_at_is_not_deleted(
    command: RunCommand, redis: "Redis", redis_url: str
) -> None:
    await redis.xadd("billing", {"event_id": "theirs"})
    await redis.acl_setuser(
        "relay", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all", "-xrange", "-xrevrange"]
    )
    try:
        named = redis_url.replace("://", "://relay:secret@")
        code, _ = await command("prove", *SHORT, "--stream-name", "billing", REDIS_URL=named)
    finally:
        await redis.acl_deluser("relay")
    assert code == 2
    assert await redis.xlen("billing") == 1


async def test_a_user_that_may_not_use_the_stream_is_told(command: RunCommand, redis: "Redis", redis_url: str) -> None:
    await redis.acl_setuser("relay", enabled=True, passwords=["+secret"], keys=[STREAM], commands=["+@all"])
    try:
        code, output = await command("prove", *SHORT, REDIS_URL=redis_url.replace("://", "://relay:secret@"))
    finally:
        await redis.acl_deluser("relay")
    assert code == 2
    assert f"~{CANARIES}" in output
    assert "secret" not in output


@pytest.mark.parametrize("grouped", [False, True])
async def test_a_stream_of_somebody_else_is_not_touched(command: RunCommand, redis: "Redis", grouped: bool) -> None:
    """At the end the stream is deleted."""
    if grouped:
        await redis.xgroup_create("billing", "readers", mkstream=True)
    else:
        await redis.xadd("billing", {"event_id": "theirs"})
        await redis.xadd("billing", {"event_type": "dispatcher.prove"})
    before = await redis.xinfo_stream("billing")
    code, output = await command("prove", *SHORT, "--stream-name", "billing")
    assert code == 2
    assert "billing holds what is not of `dispatcher prove`" in output
    assert await redis.xinfo_stream("billing") == before


async def test_ended_by_ctrl_c_it_leaves_nothing(
    cli: StartCli, database_url: str, db: psycopg.AsyncConnection, redis: "Redis", redis_url: str
) -> None:
    child = await cli("prove", "--json", env={"DATABASE_URL": database_url, "REDIS_URL": redis_url})
    await until(lambda: redis.xlen(CANARIES), "proof events go out")
    os.kill(child.pid, signal.SIGINT)
    assert await child.wait() == 130
    assert await redis.keys("*") == []
    [(rows,)] = await (await db.execute("SELECT count(*) FROM messaging.message_outbox")).fetchall()
    assert rows == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("--stream-name", STREAM), "would be deleted"), (("--rate", "0"), "--rate"), (("--seconds", "0"), "--seconds")],
)
async def test_what_makes_no_sense_is_refused(command: RunCommand, arguments: tuple[str, ...], words: str) -> None:
    code, output = await command("prove", *arguments)
    assert code == 2
    assert words in output


async def test_what_it_cannot_clean_is_named(heard: HearCommand, db: psycopg.AsyncConnection, redis: "Redis") -> None:
    """Here the answer to the deletion of its rows is lost, with the session."""
    await db.execute(
        "CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END$$"
    )
    await db.execute(
        "CREATE TRIGGER cut BEFORE DELETE ON messaging.message_outbox FOR EACH ROW "
        "WHEN (OLD.event_type = 'dispatcher.prove') EXECUTE FUNCTION cut()"
    )
    _, report = await proof(heard, *SHORT)
    assert report["left_behind"] == [
        f"{report['committed']} rows of the type dispatcher.prove, until they are pruned (no answer)"
    ]
    assert await redis.keys("*") == []
