"""A stop while the answer to a claim is missing: the claim is released, so the stop is clean and nobody has to die."""

from typing import Any

import psycopg
import pytest

from dispatcher.core.events import Stopped
from dispatcher.relay import claimer
from tests.support.handlers import MakeModule
from tests.support.proxy import StartProxy, losing_answers
from tests.support.rows import insert_events, read_table, statuses
from tests.support.running import StartDispatcher
from tests.support.slots import owners
from tests.support.waiting import until

Db = psycopg.AsyncConnection[Any]
ROWS = 7  # in one claim


@pytest.fixture(params=["stream", "handlers"])
def to(request: pytest.FixtureRequest, handlers_module: MakeModule) -> dict[str, Any]:
    """Settings: who takes the rows."""

    async def handle(payload: Any) -> None:
        """Do nothing."""

    return {} if request.param == "stream" else {"handlers": handlers_module({"order.created": handle})}


async def owns_all(db: Db) -> bool:
    return list((await owners(db)).values()) == [256] and None not in await owners(db)


async def nothing_left(db: Db, order: str) -> None:
    assert await read_table(db, "dispatcher") == [], "it signed off: nobody takes it for dead"
    assert await statuses(db) == {"pending": ROWS}
    if order == "aggregate":
        assert await owners(db) == {None: 256}


@pytest.mark.parametrize("order", ["none", "aggregate"])
async def test_the_stop_is_clean(
    dispatcher: StartDispatcher, db: Db, database_url: str, proxy: StartProxy, to: dict[str, Any], order: str
) -> None:
    through = await proxy(database_url)
    stop: list[Any] = []
    through.make_filter = losing_answers("claim", f"UPDATE {ROWS}", then=lambda: stop[0]("the test"))
    url = through.via(database_url)
    async with dispatcher(database_url=url, order=order, shutdown_grace_ms=8000, **to) as running:
        stop.append(running.service.stop)
        if order == "aggregate":
            await until(lambda: owns_all(db), "it owns all slots")
        await insert_events(db, ROWS)
        stopped = await running.tap.next(Stopped)
    assert (stopped.cut_short, running.service.exit_code) == (None, 0)
    await nothing_left(db, order)


async def test_it_waits_for_a_session_when_all_are_cut(
    dispatcher: StartDispatcher, db: Db, database_url: str, proxy: StartProxy, to: dict[str, Any]
) -> None:
    through = await proxy(database_url)
    stop: list[Any] = []

    def stop_and_cut() -> None:
        stop[0]("the test")
        through.cut()

    through.make_filter = losing_answers("claim", f"UPDATE {ROWS}", then=stop_and_cut)
    async with dispatcher(database_url=through.via(database_url), **to) as running:
        stop.append(running.service.stop)
        await insert_events(db, ROWS)
        await running.tap.next(Stopped)
    assert await statuses(db) == {"pending": ROWS}


async def test_without_postgres_the_stop_does_not_wait_out_its_grace(
    dispatcher: StartDispatcher,
    db: Db,
    database_url: str,
    proxy: StartProxy,
    to: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claimer, "BACK_WITHIN_S", 0.1)
    through = await proxy(database_url)
    stop: list[Any] = []

    def stop_and_go_away() -> None:
        stop[0]("the test")
        through.refuse()
        through.cut()

    through.make_filter = losing_answers("claim", f"UPDATE {ROWS}", then=stop_and_go_away)
    async with dispatcher(database_url=through.via(database_url), shutdown_grace_ms=60_000, **to) as running:
        stop.append(running.service.stop)
        await insert_events(db, ROWS)
        stopped = await running.tap.next(Stopped)
    assert (stopped.cut_short, running.service.exit_code) == (None, 0)
    assert await statuses(db) == {"picked": ROWS}
