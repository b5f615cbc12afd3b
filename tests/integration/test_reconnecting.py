"""A link opens a session, opens another when it breaks, and tells everybody who waits."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from random import Random

import anyio
import psycopg
import pytest

from dispatcher.core.errors import Misconfigured, SessionLost, Unreachable
from dispatcher.core.events import DatabaseChanged
from dispatcher.embedded import free_port
from dispatcher.infra.postgres.reconnecting import PrepareSession, ReconnectingSession
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.target import PostgresTarget
from tests.support.tap import Tap

Kept = Callable[..., AbstractAsyncContextManager[ReconnectingSession]]


@pytest.fixture
def kept(database_url: str, tap: Tap) -> Kept:
    """`async with kept() as link:` a link that is being kept; its changes go to the tap as DatabaseChanged."""

    @asynccontextmanager
    async def keep(
        url: str = database_url, prepare: PrepareSession | None = None
    ) -> AsyncIterator[ReconnectingSession]:
        link = ReconnectingSession(
            PostgresTarget(url, "test", connect_timeout_s=30.0),
            "lane",
            rng=Random(1),
        )
        link.on_change(lambda up, reason: tap(DatabaseChanged(up, reason)))
        if prepare is not None:
            link.prepare(prepare)
        async with anyio.create_task_group() as tasks:
            await tasks.start(link.keep)
            yield link
            tasks.cancel_scope.cancel()
        assert link.session is None

    return keep


async def lose(link: ReconnectingSession, db: psycopg.AsyncConnection) -> Session:
    """Have the server end the session, and find that out by a statement; returns the one that was lost."""
    session = await link.get()
    await db.execute("SELECT pg_terminate_backend(%s)", [session.backend_pid])
    with pytest.raises(SessionLost):
        await session.fetch("SELECT 1")
    return session


async def test_it_has_a_session_as_soon_as_it_reports_started(kept, tap):
    async with kept() as link:
        assert link.session is not None
        assert await link.session.fetch("SELECT 1") == [(1,)]
        assert await tap.next(DatabaseChanged) == DatabaseChanged(True, None)
    assert len(tap.all(DatabaseChanged)) == 1


async def test_it_reconnects_after_the_server_ended_its_session(kept, db, tap):
    async with kept() as link:
        for _ in range(3):
            broken = await lose(link, db)
            again = await link.get()
            assert again is not broken
            assert broken.closed
            assert await again.fetch("SELECT 1") == [(1,)]
        changes = tap.all(DatabaseChanged)
        assert [change.up for change in changes] == [True, False] * 3 + [True]
        assert all(change.up or change.reason for change in changes)


async def test_losing_the_same_session_again_is_no_matter(kept, db, tap):
    async with kept() as link:
        broken = await lose(link, db)
        again = await link.get()
        assert "late" not in str(broken.lose("late"))
        assert link.session is again
        assert not again.closed
        assert "late" not in str(tap.all(DatabaseChanged))


async def test_everybody_who_waits_gets_the_new_session(kept, db, proxy, database_url, tap):
    through = await proxy(database_url)
    async with kept(through.via(database_url)) as link:
        through.refuse()
        await lose(link, db)
        got: list[Session] = []

        async def wait() -> None:
            got.append(await link.get())

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(wait)
            await tap.next(DatabaseChanged, lambda change: not change.up and "nothing listens" in str(change.reason))
            assert got == []
            await through.restore()
        assert got == [link.session] * 3


async def test_a_server_that_is_not_there_yet_is_waited_for(kept, proxy, database_url, tap):
    through = await proxy(database_url)
    through.refuse()
    async with kept(through.via(database_url)) as link:
        assert link.session is None
        assert not (await tap.next(DatabaseChanged)).up
        await through.restore()
        assert await (await link.get()).fetch("SELECT 1") == [(1,)]


async def test_what_a_person_must_mend_is_raised_at_first(kept, database_url):
    with pytest.raises(BaseExceptionGroup) as caught:
        async with kept(f"{database_url}_nowhere"):
            pass
    assert caught.value.subgroup(Misconfigured)


async def test_what_a_person_must_mend_is_waited_out_later(kept, db, tap, database_url):
    role = f"{db.info.dbname}_role"
    await db.execute(f"CREATE ROLE {role} LOGIN")
    async with kept(database_url.replace("postgres@", f"{role}@")) as link:
        await db.execute(f"ALTER ROLE {role} RENAME TO {role}_2")
        await lose(link, db)
        await tap.next(DatabaseChanged, lambda change: "The role does not exist" in str(change.reason))
        await db.execute(f"ALTER ROLE {role}_2 RENAME TO {role}")
        assert await (await link.get()).fetch("SELECT 1") == [(1,)]
    await db.execute(f"DROP ROLE {role}")


async def test_a_session_is_prepared_before_anybody_sees_it(kept, db):
    async def prepare(session: Session) -> None:
        await session.fetch("SET search_path = prepared")

    async with kept(prepare=prepare) as link:
        for _ in range(2):
            assert await (await link.get()).fetch("SHOW search_path") == [("prepared",)]
            await lose(link, db)


@pytest.mark.parametrize("error", [SessionLost("deaf"), Unreachable("deaf"), psycopg.OperationalError("deaf")])
async def test_a_session_that_cannot_be_prepared_is_closed_and_tried_again(kept, tap, error):
    tried: list[Session] = []

    async def prepare(session: Session) -> None:
        tried.append(session)
        if len(tried) < 3:
            raise error

    async with kept(prepare=prepare) as link:
        assert await link.get() is tried[2]
        assert [session.closed for session in tried] == [True, True, False]
        assert [change.up for change in tap.all(DatabaseChanged)] == [False, False, True]


async def test_a_session_that_a_person_must_mend_is_closed_and_raised(kept):
    tried: list[Session] = []

    async def prepare(session: Session) -> None:
        tried.append(session)
        raise Misconfigured("a table is missing")

    with pytest.raises(BaseExceptionGroup) as caught:
        async with kept(prepare=prepare):
            pass
    assert caught.value.subgroup(Misconfigured)
    assert tried[0].closed


async def test_a_stop_while_nobody_listens_ends_at_once():
    link = ReconnectingSession(
        PostgresTarget(f"postgresql://u@127.0.0.1:{free_port()}/d", "test"), "lane", rng=Random(1)
    )
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            await tasks.start(link.keep)
            tasks.cancel_scope.cancel()


async def test_a_statement_that_the_end_cuts_is_no_loss_to_tell_of(kept, tap):
    """Duties have statements in flight when a dispatcher stops: Postgres is not away because of that."""
    ended: list[str] = []

    async def work(session: Session) -> None:
        with pytest.raises(SessionLost):
            await session.fetch("SELECT pg_sleep(60)")
        ended.append("cut")

    async with anyio.create_task_group() as tasks:
        async with kept() as link:
            tasks.start_soon(work, await link.get())
            await anyio.wait_all_tasks_blocked()
        assert [change.up for change in tap.all(DatabaseChanged)] == [True]
    assert ended == ["cut"]
