"""`dispatcher status` as a person and as a script meet it."""

import json
import re
import signal
from functools import partial

import psycopg
import pytest
from rich.console import Console

from dispatcher.commands.status import show
from dispatcher.core.errors import Misconfigured
from dispatcher.core.layout import Layout
from dispatcher.embedded import free_port
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.redis.info import GroupInfo, StreamInfo
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.status import Status, read_status
from tests.support.command import RunCommand
from tests.support.rows import STREAM, insert_events

UTC_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
OUTBOX = {"pending": 0, "picked": 0, "retry": 0, "sent": 0, "dead": 0}


@pytest.fixture
def status(command: RunCommand) -> RunCommand:
    """The exit code of `dispatcher status`, and its output."""
    return partial(command, "status")


async def test_what_waits_who_runs_and_who_reads(status, db, redis):
    await insert_events(db, 3)
    await insert_events(db, 2, status="sent")
    await insert_events(db, 1, status="dead")
    await redis.xadd(STREAM, {"n": 1})
    await redis.xgroup_create(STREAM, "websockets", "0")
    ids = []
    for name in ("alive", "dead", "locked by something else"):
        cursor = await db.execute("INSERT INTO messaging.dispatcher (name) VALUES (%s) RETURNING id", [name])
        ids += [row[0] for row in await cursor.fetchall()]
    await db.execute("SELECT pg_advisory_lock(1869968483, %s::int)", [ids[0]])
    await db.execute("SELECT pg_advisory_lock(1869968482, %s::int)", [ids[2]])
    code, output = await status("--json")
    found = json.loads(output)
    assert code == 0
    assert found["outbox"]["rows"] == OUTBOX | {"pending": 3, "sent": 2, "dead": 1}
    [running] = found["outbox"]["dispatchers"]
    assert running["name"] == "alive"
    assert UTC_TIME.fullmatch(running["started_at"])
    assert found["outbox"]["doorbell"] == "installed"
    assert found["stream"] == {
        "name": STREAM,
        "length": 1,
        "groups": [
            {"name": "websockets", "lag": 1, "pending": 0, "consumers": 0, "last_read_age_s": None, "dead": 0}
            | {"reader": None, "put_away": None}
        ],
        "read_to": None,
        "oldest": None,
    }
    assert found["problems"] == []


async def test_a_lock_of_another_database_is_not_ours(status, db, postgres):
    other = postgres.clone()
    try:
        await db.execute("INSERT INTO messaging.dispatcher (id, name) VALUES (7, 'gone')")
        async with await psycopg.AsyncConnection.connect(postgres.url(other), autocommit=True) as elsewhere:
            await elsewhere.execute("SELECT pg_advisory_lock(1869968483, 7)")
            _, output = await status("--json")
        assert json.loads(output)["outbox"]["dispatchers"] == []
    finally:
        postgres.drop(other)


async def test_plain_lines_where_there_is_no_terminal(cli, database_url, redis_url, db):
    await insert_events(db, 3)
    child = await cli("status", env={"DATABASE_URL": database_url, "REDIS_URL": redis_url})
    assert await child.wait() == 0
    lines = {re.sub(": +", ": ", line) for line in child.lines}
    assert {"pending: 3", f"stream: {STREAM}", "dispatchers alive: 0"} <= lines
    assert any("No dispatcher is alive, and 3 events wait" in line for line in lines)


def test_a_terminal_gets_a_table_and_no_markup_of_strangers():
    console = Console(force_terminal=True, width=80, record=True)
    stream = StreamInfo(5, (GroupInfo("[red]g[/red]", 1, 2, 3),))
    show(Status(Layout(STREAM), None, {STREAM: stream}, ()), console)
    text = console.export_text()
    assert "[red]g[/red]" in text
    assert "│" in text


@pytest.mark.parametrize(
    ("statement", "doorbell"),
    [
        ("DROP TRIGGER message_outbox_doorbell ON messaging.message_outbox", "dropped"),
        ("ALTER TABLE messaging.message_outbox DISABLE TRIGGER message_outbox_doorbell", "disabled"),
    ],
)
async def test_a_silent_doorbell_is_said(database_url, redis_url, db, statement, doorbell):
    await db.execute(statement)
    found = await read_status(PostgresTarget(database_url, "dispatcher"), redis_url, Layout(STREAM))
    assert found.outbox is not None
    assert found.outbox.doorbell == doorbell


async def test_counting_that_takes_too_long_is_left_out(database_url, redis_url, monkeypatch):
    # As the server's own timeout does it; a short one would cut the other statements of a slow machine too.
    slow = "SELECT 'pending', count(*) FROM (SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(60)) AS t"
    replaced = {"status_counts": slow}
    monkeypatch.setattr("dispatcher.ops.status.load", lambda name: replaced.get(name) or load(name))
    found = await read_status(PostgresTarget(database_url, "dispatcher"), redis_url, Layout(STREAM))
    assert found.outbox is not None
    assert found.outbox.rows is None
    assert found.problems == ()


async def test_one_server_away_does_not_hide_the_other(status, db):
    await insert_events(db, 3)
    code, output = await status("--redis-url", f"redis://:secret@127.0.0.1:{free_port()}")
    assert code == 1
    assert re.search("^pending: +3$", output, re.MULTILINE)
    assert "dispatcher: Redis at 127.0.0.1:" in output
    assert "secret" not in output
    code, output = await status("--database-url", f"postgresql://u:secret@127.0.0.1:{free_port()}/app")
    assert code == 1
    assert "entries: 0" in output
    assert "dispatcher: Postgres at 127.0.0.1:" in output
    assert "secret" not in output


async def test_both_away(status):
    nowhere = free_port()
    code, output = await status(
        "--json", DATABASE_URL=f"postgresql://127.0.0.1:{nowhere}/app", REDIS_URL=f"redis://127.0.0.1:{nowhere}"
    )
    assert code == 1
    [line] = output.splitlines()
    assert "Postgres at" in line
    assert "Redis at" in line


async def test_missing_tables_name_the_remedy(status, empty_database_url):
    code, output = await status(DATABASE_URL=empty_database_url)
    assert code == 2
    [line] = output.splitlines()
    assert line.startswith("dispatcher: there is no outbox in Postgres at ")
    assert line.endswith(
        "run `dispatcher migrate` first, or the application's own migration that makes it (Alembic, Django)"
    )


async def test_a_role_without_rights_names_the_remedy(database_url, redis_url, db):
    await db.execute("CREATE ROLE stranger_to_status LOGIN PASSWORD 'secret'")
    try:
        target = PostgresTarget(f"{database_url}?user=stranger_to_status&password=secret", "dispatcher")
        with pytest.raises(Misconfigured, match="grant it the role outbox_dispatcher"):
            await read_status(target, redis_url, Layout(STREAM))
    finally:
        await db.execute("DROP ROLE stranger_to_status")


async def test_the_dispatchers_role_is_enough(database_url, redis_url, db):
    for statement in (
        "CREATE ROLE reader_of_status LOGIN PASSWORD 'secret'",
        "GRANT USAGE ON SCHEMA messaging TO reader_of_status",
        "GRANT SELECT ON messaging.message_outbox, messaging.dispatcher, messaging.pause, "
        "messaging.pause_acknowledgement, messaging.layout TO reader_of_status",
    ):
        await db.execute(statement)
    try:
        found = await read_status(
            PostgresTarget(f"{database_url}?user=reader_of_status&password=secret", "dispatcher"),
            redis_url,
            Layout(STREAM),
        )
        assert found.outbox is not None
    finally:
        await db.execute("DROP OWNED BY reader_of_status")
        await db.execute("DROP ROLE reader_of_status")


async def refused(outbox: PostgresTarget, url: str) -> str:
    """What is said of a Redis that refuses us: the outbox is shown all the same."""
    found = await read_status(outbox, url, Layout(STREAM))
    assert (found.misconfigured, found.outbox is not None, found.stream) == (True, True, None)
    [problem] = found.problems
    return problem


async def test_redis_users_without_rights_name_the_remedy(database_url, redis_url, redis):
    await redis.acl_setuser("shy", enabled=True, passwords=["+secret"], keys=["*"], commands=["+ping", "+info"])
    try:
        url = redis_url.replace("redis://", "redis://shy:secret@")
        outbox = PostgresTarget(database_url, "dispatcher")
        assert "ACL SETUSER" in (await refused(outbox, url))
        said = await refused(outbox, url.replace("secret", "guess"))
        assert "check the user and password in REDIS_URL" in said
        assert "guess" not in said
    finally:
        await redis.acl_deluser("shy")


async def test_a_key_that_is_no_stream(database_url, redis_url, redis):
    await redis.set(STREAM, "text")
    assert "is not a stream" in await refused(PostgresTarget(database_url, "dispatcher"), redis_url)


async def test_a_pause_is_shown(status, db):
    assert re.search("^paused: +no$", (await status())[1], re.MULTILINE)
    await db.execute(
        "INSERT INTO messaging.pause (generation, paused, changed_by, reason) "
        "VALUES (3, true, 'ada@home', 'moving house')"
    )
    await db.execute(
        "INSERT INTO messaging.pause_acknowledgement (name, version, generation, in_flight) "
        "VALUES ('obeys', '1.0', 3, 0), ('settles', '1.0', 3, 1), ('late', '1.0', 2, 0)"
    )
    code, output = await status()
    assert code == 0
    assert "by ada@home (moving house); 1 of 3 dispatchers acknowledged" in output
    assert re.search("^dispatchers alive: +3$", output, re.MULTILINE)
    assert output.startswith("bad: Paused by ada@home (moving house): no event is taken; since ")
    assert re.search("^dispatcher -: +obeys, version 1.0, without a listener$", output, re.MULTILINE)
    found = json.loads((await status("--json"))[1])["outbox"]
    assert found["pause"] | {"changed_at": None} == {
        "generation": 3,
        "paused": True,
        "changed_at": None,
        "changed_by": "ada@home",
        "reason": "moving house",
    }
    assert [each["name"] for each in found["acknowledgements"]] == ["late", "obeys", "settles"]
    assert found["words"] == found["acknowledgements"]  # its older name
    assert UTC_TIME.fullmatch(found["pause"]["changed_at"])


async def test_watching_goes_on_until_it_is_interrupted(cli, database_url, redis_url, db):
    child = await cli("status", "--watch", "0.1", "--json", env={"DATABASE_URL": database_url, "REDIS_URL": redis_url})
    assert json.loads(await child.line('"outbox"'))["outbox"]["rows"]["pending"] == 0
    await insert_events(db, 3)
    assert json.loads(await child.line('"pending": 3'))["problems"] == []
    child.signal(signal.SIGINT)
    assert await child.wait() == 0


async def test_watching_shows_what_is_away(cli, redis_url):
    nowhere = f"postgresql://127.0.0.1:{free_port()}/app"
    child = await cli("status", "--watch", env={"DATABASE_URL": nowhere, "REDIS_URL": redis_url})
    await child.line("entries: 0")
    assert "Postgres at 127.0.0.1" in await child.line("bad: ")
    await child.line("; Ctrl-C ends")
    assert child.running
    child.signal(signal.SIGINT)
    assert await child.wait() == 0


async def test_nothing_set_at_all(status):
    code, output = await status(DATABASE_URL="", REDIS_URL="")
    assert code == 2
    assert "DATABASE_URL" in output
    assert "REDIS_URL" in output
