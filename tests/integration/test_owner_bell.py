"""With an order: a ring that reaches the wrong dispatcher reaches the owner, and nobody waits for the tick."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import psycopg
import pytest

from dispatcher.core.events import Slept
from dispatcher.core.owned_slots import OwnedSlots
from dispatcher.infra.sqlfiles import load
from dispatcher.stages.doorbell.owners import OwnerBell
from tests.support.rows import insert_events
from tests.support.running import Bell, StartBell

Db = psycopg.AsyncConnection[Any]
OURS, THEIRS = "a0", "a1"  # aggregates


async def slot_of(db: Db, aggregate: str) -> int:
    """The slot of an aggregate."""
    asked = await db.execute("SELECT (hashtextextended(%s, 0) & 255)::int", (aggregate,))
    return int((await asked.fetchall())[0][0])


@asynccontextmanager
async def owner_bell(bell: StartBell, db: Db, dispatcher_id: int, *aggregates: str) -> AsyncIterator[Bell]:
    """The doorbell of a dispatcher that owns the slots of these aggregates."""
    view, slots = OwnedSlots(), [await slot_of(db, each) for each in aggregates]
    view.gain(dict.fromkeys(slots, 0))
    await db.execute("UPDATE messaging.slot_owner SET owner = %s WHERE slot = ANY (%s)", (dispatcher_id, slots))
    owners: list[OwnerBell] = []

    def make(link: Any, observe: Any) -> OwnerBell:
        made = OwnerBell(link, view, dispatcher_id=lambda: dispatcher_id, observe=observe)
        owners.append(made)
        link.prepare(made.listen)
        return made

    async with bell(owners=make) as ours, anyio.create_task_group() as tasks:
        tasks.start_soon(owners[0].run)
        yield ours
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def waiting(ours: Bell, *, holds_key: bool) -> AsyncIterator[dict[str, str]]:
    """Wait in the background; `cause` is there after the block."""
    result: dict[str, str] = {}

    async def wait() -> None:
        result["cause"] = await ours.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await ours.tap.next(Slept, where=lambda slept: slept.holds_key == holds_key)
        yield result


@pytest.mark.promise("wake")
async def test_the_owner_is_rung_by_the_one_that_the_writer_rang(bell: StartBell, db: Db) -> None:
    async with (
        owner_bell(bell, db, 1, OURS) as holder,
        owner_bell(bell, db, 2, THEIRS) as owner,
        waiting(holder, holds_key=True) as woken,
        waiting(owner, holds_key=False) as also_woken,
    ):
        await insert_events(db, aggregate_id=THEIRS)
    assert (woken["cause"], also_woken["cause"]) == ("notify", "peer")


@pytest.mark.promise("wake")
async def test_beside_a_backlog_of_others_the_owner_of_what_is_new_is_rung(bell: StartBell, db: Db) -> None:
    await db.execute("SET dispatcher.doorbell = off")
    await insert_events(db, 2000, aggregate_id="nobodys")
    await db.execute("RESET dispatcher.doorbell")
    async with owner_bell(bell, db, 1, OURS) as holder, owner_bell(bell, db, 2, THEIRS) as owner:
        await holder.session.fetch(load("ring_owners"), {"self": 1})
        await insert_events(db, aggregate_id=THEIRS)
        [_] = await holder.session.fetch(load("ring_owners"), {"self": 1})
        # A window of foreign rows says nothing of what is behind it: the owner's claim has to find out.
        assert await owner.wait() == "busy"


async def test_a_foreign_row_is_not_due_for_us(bell: StartBell, db: Db) -> None:
    await insert_events(db, aggregate_id=THEIRS)
    async with owner_bell(bell, db, 1, OURS) as ours:
        async with waiting(ours, holds_key=True):
            await insert_events(db, aggregate_id=OURS)
        await ours.doorbell.note_claim(1)
        assert await ours.wait() == "busy", "its own row is due: nobody has claimed it"


async def test_who_owns_all_slots_rings_nobody(db: Db) -> None:
    view = OwnedSlots()
    owners = OwnerBell(Any, view, dispatcher_id=lambda: 1, observe=lambda event: None)  # type: ignore[arg-type]
    owners.pass_on()
    assert owners._rung.is_set()
    view.gain(dict.fromkeys(range(256), 0))
    alone = OwnerBell(Any, view, dispatcher_id=lambda: 1, observe=lambda event: None)  # type: ignore[arg-type]
    alone.pass_on()
    assert not alone._rung.is_set()
