"""A dispatcher's row keeps its id for life, and its lock says whether it is alive."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import psycopg
import pytest

from dispatcher.core.errors import SessionLost, Unreachable
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.upkeep.registry import Registry
from tests.support.postgres import unopened
from tests.support.proxy import StartProxy, losing_answers
from tests.support.rows import insert_events, read_table, statuses
from tests.support.running import StartDispatcher
from tests.support.waiting import becomes

OpenSession = Callable[..., Awaitable[Session]]
LOCK = "SELECT pg_try_advisory_lock(1869968483, %s)"
WAIT_FOR_LOCK = "SELECT pg_advisory_lock(1869968483, %s)"


@pytest.fixture
async def open_session(database_url: str) -> AsyncIterator[OpenSession]:
    sessions: list[Session] = []

    async def open_one(name: str = "one", purpose: str = "control", url: str = database_url) -> Session:
        sessions.append(await connect(PostgresTarget(url, name), purpose))
        return sessions[-1]

    yield open_one
    for each in sessions:
        await each.close()


@pytest.fixture
def registered() -> Registry:
    return Registry("one", unopened())


async def lock_is_free(db: psycopg.AsyncConnection[Any], dispatcher: int | None) -> bool:
    [free] = await (await db.execute(LOCK, [dispatcher])).fetchone() or [None]
    if free:
        await db.execute("SELECT pg_advisory_unlock(1869968483, %s)", [dispatcher])
    return bool(free)


async def test_enrolling_writes_a_row_and_takes_its_lock(registered, open_session, db):
    await registered.enrol(await open_session())
    [row] = await read_table(db, "dispatcher")
    assert (row["id"], row["name"]) == (registered.id, "one")
    assert all(row[column] for column in ("host", "pid", "version"))
    assert not await lock_is_free(db, registered.id)


async def test_when_the_answer_to_the_enrolment_is_lost_no_second_row_stays(
    registered, open_session, database_url, proxy: StartProxy, db
):
    """Its lock is free: we would take ourselves for dead by our own name, and end our own sessions and connections."""
    through = await proxy(database_url)
    through.make_filter = losing_answers("enrol", "SELECT 1")
    broken = await open_session(url=through.via(database_url))
    with pytest.raises(SessionLost):
        await registered.enrol(broken)
    [lost] = await read_table(db, "dispatcher")
    await registered.enrol(await open_session(url=through.via(database_url)))
    [row] = await read_table(db, "dispatcher")
    assert (row["id"], row["name"], registered.id) == (lost["id"] + 1, "one", lost["id"] + 1)
    assert not await lock_is_free(db, registered.id)


async def test_an_id_that_a_promoted_standby_gave_away_is_left_to_its_owner(registered, open_session, db):
    """The standby was not sent our row: there the number is free, and another gets it before we come back."""
    await registered.enrol(await open_session())
    ours = registered.id
    await db.execute("DELETE FROM messaging.dispatcher")
    await db.execute(f"ALTER SEQUENCE messaging.dispatcher_id_seq RESTART WITH {ours}")
    await db.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE classid = 1869968483")
    other = Registry("two", unopened())
    await other.enrol(await open_session("two"))
    await registered.enrol(await open_session())
    assert (other.id, registered.id) == (ours, ours + 1)
    assert [row["name"] for row in await read_table(db, "dispatcher")] == ["two", "one"]
    assert not await lock_is_free(db, registered.id)


async def test_two_dispatchers_have_rows_and_locks_of_their_own(registered, open_session, db):
    other = Registry("two", unopened())
    await registered.enrol(await open_session())
    await other.enrol(await open_session("two"))
    assert [row["id"] for row in await read_table(db, "dispatcher")] == sorted([registered.id, other.id])
    assert not await lock_is_free(db, registered.id)
    assert not await lock_is_free(db, other.id)


async def test_after_a_reconnect_it_is_the_same_row(registered, open_session, db):
    first = await open_session()
    await registered.enrol(first)
    [before] = await read_table(db, "dispatcher")
    await first.close()
    await registered.enrol(await open_session())
    [after] = await read_table(db, "dispatcher")
    assert (after["id"], after["started_at"]) == (before["id"], before["started_at"])
    assert after["seen_at"] > before["seen_at"]
    assert not await lock_is_free(db, registered.id)


async def test_a_row_that_was_cleared_away_is_written_again(registered, open_session, db):
    await registered.enrol(await open_session())
    before = registered.id
    await db.execute("DELETE FROM messaging.dispatcher")
    await registered.enrol(await open_session())
    assert registered.id == before
    assert [row["id"] for row in await read_table(db, "dispatcher")] == [before]


async def test_a_running_dispatcher_whose_row_is_gone_writes_it_again(
    dispatcher: StartDispatcher, db: psycopg.AsyncConnection[Any]
) -> None:
    """As after a downgrade and an upgrade by a migration tool: status and doctor would not see it."""
    async with dispatcher():
        [before] = await read_table(db, "dispatcher")
        await db.execute("DELETE FROM messaging.dispatcher")

        async def ids() -> list[int]:
            return [row["id"] for row in await read_table(db, "dispatcher")]

        await becomes(ids, [before["id"]])
        await becomes(lambda: lock_is_free(db, before["id"]), False)
        await insert_events(db, 1)
        await becomes(lambda: statuses(db), {"sent": 1})
    assert await ids() == []  # a clean stop removes it


async def test_an_earlier_session_that_the_server_still_believes_in_is_ended(registered, open_session, db):
    first = await open_session()
    await registered.enrol(first)
    second = await open_session()
    await registered.enrol(second)
    with pytest.raises(SessionLost):
        await first.fetch("SELECT 1")
    assert await second.fetch("SELECT 1") == [(1,)]
    assert not await lock_is_free(db, registered.id)


async def test_other_sessions_of_ours_are_not_ended(registered, open_session):
    lane, stranger = await open_session(purpose="lane-0"), await open_session("two")
    await registered.enrol(await open_session())
    await registered.enrol(await open_session())
    assert [await each.fetch("SELECT 1") for each in (lane, stranger)] == [[(1,)]] * 2


async def test_a_lock_that_a_stranger_holds_is_told_and_the_stranger_lives(open_session, db):
    registered = Registry("one", unopened(), tries=3)
    await registered.enrol(await open_session())
    dispatcher = registered.id
    stranger = await open_session("two")
    await db.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE classid = 1869968483")
    await stranger.fetch("SELECT pg_advisory_lock(1869968483, %(id)s::int)", {"id": dispatcher})
    with pytest.raises(Unreachable, match=f"the lock of dispatcher {dispatcher} is still held"):
        await registered.enrol(await open_session())
    assert await stranger.fetch("SELECT 1") == [(1,)]


async def test_a_crash_frees_the_lock(registered, open_session, db):
    session = await open_session()
    await registered.enrol(session)
    await db.execute("SELECT pg_terminate_backend(%s)", [session.backend_pid])
    await db.execute("SET lock_timeout = '60s'")
    await db.execute(WAIT_FOR_LOCK, [registered.id])  # returns once the server has ended it


async def test_signing_off_removes_the_row(registered, open_session, db):
    session = await open_session()
    await registered.enrol(session)
    registered.control.session = session
    await registered.deregister()
    assert await read_table(db, "dispatcher") == []


async def test_signing_off_on_a_session_that_broke_is_no_matter(registered, open_session, db):
    session = await open_session()
    await registered.enrol(session)
    await db.execute("SELECT pg_terminate_backend(%s)", [session.backend_pid])
    registered.control.session = session
    await registered.deregister()
    assert len(await read_table(db, "dispatcher")) == 1


async def test_a_role_without_rights_on_sequences_enrols_and_ends_its_earlier_session(
    registered, open_session, database_url, db
):
    role = f"{database_url.rsplit('/', 1)[1]}_role"
    await db.execute(f"CREATE ROLE {role} LOGIN")
    try:
        await db.execute(f"GRANT USAGE ON SCHEMA messaging TO {role}")
        await db.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON messaging.dispatcher TO {role}")
        for _ in range(2):
            await registered.enrol(await open_session(url=database_url.replace("postgres@", f"{role}@")))
        [row] = await read_table(db, "dispatcher")
        assert row["id"] == registered.id
    finally:
        await db.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = %s", [role])
        await db.execute(f"DROP OWNED BY {role}")
        await db.execute(f"DROP ROLE {role}")
