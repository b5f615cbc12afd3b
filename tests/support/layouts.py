"""Layouts of streams, as tests need them."""

import json
from typing import Any

import psycopg

from dispatcher.core.layout import Layout
from dispatcher.upkeep.standing_layout import StandingLayout
from tests.support.rows import STREAM


def standing(layout: Layout | None = None) -> StandingLayout:
    """A layout that was found in Postgres and is ours; the plain one of STREAM by default."""
    ours = layout or Layout(STREAM)
    found = StandingLayout(ours, "test", lambda event: None)
    found._stands = ours.fingerprint
    return found


async def stand_in_order(db: psycopg.AsyncConnection[Any], on_dead: str = "continue") -> None:
    """Write into Postgres that the events of an aggregate go out in order, as a dispatcher with that setting does."""
    spec = {"stream": STREAM, "shards": 1, "routes": [], "order": "aggregate", "order_on_dead": on_dead}
    await db.execute(
        "INSERT INTO messaging.layout (fingerprint, spec, keys) VALUES ('in order', %s, %s) "
        "ON CONFLICT (one) DO UPDATE SET spec = excluded.spec",
        [json.dumps(spec), [STREAM]],
    )
