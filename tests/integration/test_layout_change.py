"""`layout set` loses its connection on the way: the pause that it made does not stay, or it says that it does."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.command import HearCommand
from tests.support.proxy import Direction, Filter, Proxy, StartProxy, losing_answers
from tests.support.rows import STREAM


async def set_layout(heard: HearCommand, database_url: str) -> tuple[int, str]:
    code, _, said = await heard(
        "layout", "set", "--stream-shards", "8", "--yes", DATABASE_URL=database_url, DISPATCH_STREAM_NAME=STREAM
    )
    return code, said


async def paused(db: Any) -> list[tuple[bool, str]]:
    cursor = await db.execute("SELECT paused, changed_by FROM messaging.pause")
    return [*await cursor.fetchall()]


def cutting_at(statement: str, then: Callable[[], None] = lambda: None) -> Callable[[], Filter]:
    """The connection that paused is cut when it asks this, before Postgres hears of it."""

    def make() -> Filter:
        paused = False

        def cut(direction: Direction, data: bytes) -> bytes:
            nonlocal paused
            paused = paused or b"-- pause_set:" in data
            if paused and direction == "to_server" and f"-- {statement}:".encode() in data:
                then()
                raise ConnectionAbortedError
            return data

        return cut

    return make


@pytest.mark.parametrize(
    "fault",
    [
        cutting_at("pause_progress"),
        cutting_at("layout_set"),
        losing_answers("pause_set", "SELECT 1"),  # of the pause
        losing_answers("layout_set", "SELECT 1"),
    ],
    ids=["wait", "set", "answer-to-pause", "answer-to-set"],
)
async def test_all_are_resumed_when_the_connection_breaks(
    heard: HearCommand, database_url: str, proxy: StartProxy, db: Any, fault: Callable[[], Filter]
) -> None:
    through = await proxy(database_url)
    through.make_filter = fault
    code, said = await set_layout(heard, through.via(database_url))
    assert (code, "broke" in said) == (1, True)
    [(still, _)] = await paused(db)
    assert not still


async def test_it_says_that_all_are_paused_still_when_it_cannot_connect_again(
    heard: HearCommand, database_url: str, proxy: StartProxy, db: Any
) -> None:
    through: Proxy = await proxy(database_url)
    through.make_filter = cutting_at("pause_progress", then=through.refuse)
    code, said = await set_layout(heard, through.via(database_url))
    assert code == 1
    assert said.rstrip().endswith("all dispatchers may be paused still: `dispatcher resume`")
    [(still, _)] = await paused(db)
    assert still


async def test_the_pause_of_somebody_else_stays(
    heard: HearCommand, database_url: str, proxy: StartProxy, db: Any
) -> None:
    await db.execute("INSERT INTO messaging.pause (generation, paused, changed_by) VALUES (1, true, 'ops@example')")
    through = await proxy(database_url)
    through.make_filter = losing_answers("pause_set", "SELECT 0")
    code, said = await set_layout(heard, through.via(database_url))
    assert (code, "broke" in said) == (1, True)
    assert await paused(db) == [(True, "ops@example")]
