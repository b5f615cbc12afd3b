"""Layouts of streams, as tests need them."""

from typing import Any

import psycopg

from dispatcher.core.layout import Layout, OnDead
from dispatcher.upkeep.standing_layout import StandingLayout
from tests.support.rows import STREAM


def standing(layout: Layout | None = None) -> StandingLayout:
    """A layout that was found in Postgres and is ours; the plain one of STREAM by default."""
    ours = layout or Layout(STREAM)
    found = StandingLayout(ours, "test", lambda event: None)
    found._stands = ours.fingerprint
    return found


async def stand_in_order(db: psycopg.AsyncConnection[Any], on_dead: OnDead = "continue") -> None:
    """Write into Postgres that the events of an aggregate go out in order, as a dispatcher with that setting does."""
    await stand_in_postgres(db, Layout(STREAM, order="aggregate", on_dead=on_dead))


async def stand_in_postgres(db: psycopg.AsyncConnection[Any], layout: Layout) -> None:
    """Write a layout into Postgres, though rows may be in hand. What may be claimed stays as it is."""
    await db.execute(
        "INSERT INTO messaging.layout (fingerprint, spec, keys) VALUES (%(fingerprint)s, %(spec)s, %(keys)s) "
        "ON CONFLICT (one) DO UPDATE SET fingerprint = excluded.fingerprint, spec = excluded.spec",
        layout.columns(),
    )
