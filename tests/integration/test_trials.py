"""The trials: what others' rules refuse is named before anything is claimed; nothing of a trial outlives it."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import psycopg
import pytest
from psycopg import sql
from redis.asyncio import Redis

from dispatcher.core.errors import Misconfigured
from dispatcher.core.events import Settled, Slept
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.ops import trial_list, trials
from dispatcher.ops.doctor import schema
from dispatcher.service import run
from dispatcher.settings import Settings
from tests.support.command import RunCommand
from tests.support.psql import psql
from tests.support.readme import ROOT
from tests.support.rows import insert_events, read_stream, read_table, statuses
from tests.support.running import StartDispatcher

pytestmark = pytest.mark.both_versions

Db = psycopg.AsyncConnection[Any]
OUTBOX = "messaging.message_outbox"
SENT = "NEW.status = 'sent'"
HOLDS = "messaging.holds_stream(text, text, text, bigint)"
GUARD = """
CREATE FUNCTION public.guard() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN IF {when} THEN RAISE EXCEPTION 'not on my watch'; END IF; RETURN NEW; END $$;
CREATE TRIGGER guard BEFORE {event} ON messaging.{table} FOR EACH ROW EXECUTE FUNCTION public.guard()
"""


def guard(table: str, event: str, when: str = "true") -> str:
    return GUARD.format(table=table, event=event, when=when)


# What somebody does to the database; the trial that finds it; words of the server that are told.
REFUSED = {
    "a trigger on claims": (
        guard("message_outbox", "UPDATE", "NEW.status = 'picked'"), "claim", "P0001: not on my watch",
    ),
    "a trigger on settling": (
        guard("message_outbox", "UPDATE", SENT), "settle-sent", "function guard()",
    ),
    "a trigger on copies": (guard("message_dlq", "INSERT"), "bury", "P0001: not on my watch"),
    "a check": (
        f"ALTER TABLE {OUTBOX} ADD CONSTRAINT mine CHECK (status <> 'retry')", "settle-retry", "constraint mine",
    ),
    "a column of copies": (
        "ALTER TABLE messaging.message_dlq ADD COLUMN tenant text NOT NULL",
        "bury", 'null value in column "tenant"',
    ),
    "a rule": (
        f"CREATE RULE none AS ON UPDATE TO {OUTBOX} WHERE NEW.status = 'sent' DO INSTEAD NOTHING", "claim", "0A000",
    ),
    "an update that is swallowed": (
        guard("message_outbox", "UPDATE", SENT).replace("RAISE EXCEPTION 'not on my watch'", "RETURN NULL"),
        "settle-sent", "no row was changed",
    ),
    "a function that is another's": (
        f"DROP FUNCTION {HOLDS}; CREATE FUNCTION {HOLDS} RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        "settle-in-stream", "SQLSTATE DS001 was expected",
    ),
    "a column of ours": (
        "ALTER TABLE messaging.message_dlq DROP COLUMN replay_count",
        "bury", "42703",
    ),
    "an insert that nobody can make": (
        f"ALTER TABLE {OUTBOX} ADD COLUMN tenant text NOT NULL", "insert", 'null value in column "tenant"',
    ),
    "the registry": (guard("dispatcher", "INSERT"), "enrol", "P0001"),
}  # fmt: skip


@pytest.fixture
def start(database_url: str, redis_url: str) -> Callable[..., Awaitable[object]]:
    """Starts a dispatcher that is not expected to run."""
    ours: dict[str, Any] = {"enabled": True, "http_enabled": False, "log_level": "CRITICAL"}

    async def begin(url: str = database_url) -> None:
        with anyio.fail_after(50):
            await run(Settings(database_url=url, redis_url=redis_url, **ours))

    return begin


async def tried(url: str) -> dict[str, trials.Tried]:
    session = await connect(PostgresTarget(url, "test"), "test")
    try:
        return {each.trial.name: each for each in await trials.run_trials(session)}
    finally:
        await session.close()


def test_each_statement_has_its_parameters() -> None:
    for trial in trial_list.TRIALS:
        for text in trial.texts():
            asked = set(re.findall(r"%\((\w+)\)s", text))
            assert asked <= trial_list.parameters().keys(), f"{trial.name}: parameters() has not all"


async def test_all_is_done_and_nothing_stays(db: Db, database_url: str) -> None:
    """On an empty table and on one with rows; nobody hears of it."""
    await db.execute("LISTEN outbox_doorbell; LISTEN outbox_backlog; SELECT pg_advisory_lock(1869968482, 1)")
    tables = ("message_outbox", "message_dlq", "dispatcher", "pause_acknowledgement", "stream_server", "newest_entry")
    for rows in (0, 50):
        await insert_events(db, rows, status="sent", sent_at="2025-06-01 00:00:00+00")
        before = [await read_table(db, table) for table in tables]
        found = await tried(database_url)
        assert {name: each.words for name, each in found.items() if each.result != "ok"} == {}
        assert len(found) == len(trial_list.TRIALS)
        assert [await read_table(db, table) for table in tables] == before
    assert [notice async for notice in db.notifies(timeout=0)] == []
    locks = await db.execute("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()")
    assert await locks.fetchall() == []


async def test_beside_dispatchers_that_run_and_rows_that_are_held(
    dispatcher: StartDispatcher, db: Db, database_url: str, redis: Redis
) -> None:
    """It claims its own row only, waits for nobody, and nobody waits for it."""
    async with dispatcher(batch_size=10) as running, await psycopg.AsyncConnection.connect(database_url) as holder:
        await insert_events(holder, 1)  # uncommitted
        await db.execute(f"INSERT INTO {OUTBOX} (event_type, aggregate_id, payload, next_run_at) VALUES "
                         "('a', 'b', '{}', '0001-01-01 00:00:00+00')")  # fmt: skip
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(tried, database_url)
            await insert_events(db, 200)
        await running.tap.add_up(Settled, sent=201)
        await holder.rollback()
        await running.tap.next(Slept, where=lambda slept: slept.holds_key)
        found = await tried(database_url)
        assert [name for name, each in found.items() if each.result == "refused"] == []
    assert len(await read_stream(redis)) == 201
    assert await statuses(db) == {"sent": 201}


async def test_a_lock_of_somebody_is_no_refusal(db: Db, database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as holder:
        await holder.execute("LOCK TABLE messaging.message_dlq")
        found = await tried(database_url)
    assert (found["bury"].result, found["settle-sent"].result) == ("busy", "ok")


@pytest.mark.promise("setup-errors")
@pytest.mark.parametrize("case", REFUSED)
async def test_what_others_refuse_ends_the_start_and_shows_in_doctor(
    case: str, db: Db, database_url: str, start: Callable[..., Awaitable[object]]
) -> None:
    breaks, name, words = REFUSED[case]
    await db.execute(breaks.encode())
    if case != "a trigger on claims":  # that is tried again until it is allowed
        with pytest.raises(Misconfigured, match=re.escape(words)) as caught:
            await start()
        assert f"{name}: " in str(caught.value)
        assert "Remedy: " in str(caught.value)
    if case == "a rule":
        return  # its error ends a session; doctor says that
    session = await connect(PostgresTarget(database_url, "test"), "test")
    found = {finding.check: finding for finding in await schema.trials(session)}
    await session.close()
    assert found[f"try-{name}"].level == "bad"
    assert words in found[f"try-{name}"].found


async def test_what_waits_goes_out_though_nothing_can_be_added(
    db: Db, database_url: str, dispatcher: StartDispatcher
) -> None:
    """A row that is settled lends itself."""
    await insert_events(db, 3, status="sent", sent_at="2025-06-01 00:00:00+00")
    await insert_events(db, 5)
    await db.execute(guard("message_outbox", "INSERT").encode())
    found = await tried(database_url)
    assert [name for name, each in found.items() if each.result != "ok"] == ["add-event", "insert"]
    async with dispatcher() as running:
        await running.tap.add_up(Settled, sent=5)


@pytest.fixture
async def relay(database_url: str, db: Db) -> Any:
    """The URL of a login role that is an outbox_dispatcher and no superuser."""
    psql(database_url, "-f", str(ROOT / "sql" / "roles.sql"))
    await db.execute("DROP ROLE IF EXISTS relay_of_trials")
    await db.execute("CREATE ROLE relay_of_trials LOGIN IN ROLE outbox_dispatcher")
    yield database_url.replace("postgres@", "relay_of_trials@")
    for role in ("relay_of_trials", "outbox_producer", "outbox_dispatcher", "outbox_pruner"):
        await db.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(role)))


@pytest.mark.parametrize("table", ["message_outbox", "message_dlq", "dispatcher", "unbroken", "stream_server"])
async def test_row_level_security_is_never_an_empty_backlog(
    table: str, relay: str, db: Db, start: Callable[..., Awaitable[object]]
) -> None:
    assert {name: each.words for name, each in (await tried(relay)).items() if each.result != "ok"} == {}
    await db.execute(f"ALTER TABLE messaging.{table} ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON messaging.{table}"
                     " FOR INSERT WITH CHECK (true)".encode())  # fmt: skip
    with pytest.raises(Misconfigured, match=f"row-level security of messaging.{table} may hide rows.*BYPASSRLS"):
        await start(relay)
    session = await connect(PostgresTarget(relay, "test"), "test")
    assert (await schema.tables(session)).level == "bad"
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="would be affected by row-level security"):
        await session.fetch(f"SELECT FROM messaging.{table}")  # enabled while we run: never a silent filter
    await session.close()
    await db.execute("ALTER ROLE relay_of_trials BYPASSRLS")
    assert {name: each.words for name, each in (await tried(relay)).items() if each.result != "ok"} == {}


async def test_a_role_that_may_only_read(relay: str, db: Db, start: Callable[..., Awaitable[object]]) -> None:
    """Of the role, not of the server: it is not waited for."""
    await db.execute("ALTER ROLE relay_of_trials SET default_transaction_read_only = on")
    with pytest.raises(Misconfigured, match="RESET default_transaction_read_only"):
        await start(relay)


@pytest.mark.parametrize(
    ("right", "name"),
    [
        ("UPDATE (last_error) ON messaging.message_outbox", "settle-sent"),
        ("INSERT ON messaging.message_dlq", "bury"),
        ("SELECT ON messaging.unbroken", "note-newest"),
        ("UPDATE ON messaging.stream_server", "audit"),
    ],
)
async def test_a_right_that_was_revoked(
    right: str, name: str, relay: str, db: Db, start: Callable[..., Awaitable[object]]
) -> None:
    await db.execute(f"REVOKE {right} FROM outbox_dispatcher".encode())
    found = (await tried(relay))[name]
    assert (found.result, found.sqlstate) == ("refused", "42501")
    assert "dispatcher sql roles" in found.remedy
    with pytest.raises(Misconfigured, match=re.escape("dispatcher sql roles")):
        await start(relay)


@pytest.mark.parametrize(
    "right",
    ["SELECT ON pg_locks", "SELECT ON pg_stat_activity", "EXECUTE ON FUNCTION pg_terminate_backend(integer, bigint)"],
)
async def test_a_right_of_the_catalogue_that_was_revoked(right: str, relay: str, db: Db, command: RunCommand) -> None:
    """Without it no dispatcher that died or froze is succeeded; and who pauses hears what Postgres said."""
    await db.execute(f"REVOKE {right} FROM PUBLIC".encode())  # of this database
    tried_fence = (await tried(relay))["fence"]
    assert (tried_fence.result, tried_fence.sqlstate) == ("refused", "42501")
    assert "a superuser has to GRANT that" in tried_fence.remedy
    assert re.findall(r"pg_\w+", right)[0] in tried_fence.words
    if "pg_locks" in right:
        code, said = await command("pause", "--database-url", relay)
        assert (code, "permission denied for view pg_locks" in said) == (2, True)


@pytest.mark.parametrize(
    "work",
    ["EXECUTE format('SELECT 1 / 0, %L', NEW.payload)", "PERFORM (NEW.payload ->> 'card')::integer"],
    ids=["a statement made of the payload", "a value that is no number"],
)
async def test_no_payload_is_in_what_a_refusal_says(db: Db, database_url: str, work: str) -> None:
    """The row of the trials is like the newest row, and the server's words may quote it."""
    await insert_events(db, payload='{"card": "4111-1111"}')
    refuses = guard("message_outbox", "UPDATE").replace("RAISE EXCEPTION 'not on my watch'", work)
    await db.execute(refuses.encode())
    claim = (await tried(database_url))["claim"]
    assert claim.result == "refused"
    assert "function guard()" in claim.words
    assert "4111" not in claim.words
