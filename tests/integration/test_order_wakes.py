"""With an order and several dispatchers an event goes out at once, whoever the writer rang."""

from typing import Any

import pytest

from dispatcher.core.events import Settled, SlotsChanged
from dispatcher.relay.order.groups import SlotGroup
from dispatcher.relay.order.in_order import InOrder
from tests.support.rows import insert_events
from tests.support.running import StartDispatcher
from tests.support.slots import shares_of
from tests.support.waiting import becomes

IN_ORDER: dict[str, Any] = {"order": "aggregate"}
NO_TICK = {"tick_ms": 600_000}  # longer than a test may take


async def test_an_event_of_any_slot_wakes_its_owner(dispatcher: StartDispatcher, db: Any) -> None:
    settings = IN_ORDER | NO_TICK
    async with dispatcher(**settings) as one, dispatcher(**settings) as two, dispatcher(**settings) as three:
        await becomes(lambda: shares_of(db), [86, 85, 85])
        for number in range(24):
            await insert_events(db, aggregate_id=f"x{number}")
            await becomes(lambda: sent(one, two, three), number + 1)
        assert all(any(event.sent for event in each.tap.all(Settled)) for each in (one, two, three))


def sent(*running: Any) -> int:
    return sum(event.sent for each in running for event in each.tap.all(Settled))


async def test_one_that_owns_no_slot_sleeps(
    dispatcher: StartDispatcher, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looked for a slot fifty times a second."""
    turns, ready = list[bool](), InOrder.ready

    async def counted(self: InOrder, *args: Any) -> SlotGroup | None:
        turns.append(bool(self.slots.owned))
        return await ready(self, *args)

    monkeypatch.setattr(InOrder, "ready", counted)
    async with dispatcher(**IN_ORDER, canary_percent=0, tick_ms=60_000) as idle, dispatcher(**IN_ORDER) as owner:
        await becomes(lambda: shares_of(db), [256])
        await insert_events(db, 30)
        await becomes(lambda: sent(owner, idle), 30)
        without = turns.count(False)
        for number in range(20):
            await insert_events(db, 1)
            await becomes(lambda: sent(owner, idle), 31 + number)
        assert turns.count(False) <= without + 20, "once for each ring, at most"


async def test_what_waited_in_a_slot_goes_out_when_it_has_another_owner(dispatcher: StartDispatcher, db: Any) -> None:
    async with dispatcher(**IN_ORDER) as one:
        async with dispatcher(**IN_ORDER) as two:
            await becomes(lambda: shares_of(db), [128, 128])
        await one.tap.next(SlotsChanged, lambda event: event.owned == 256)
        await insert_events(db, 60)
        await becomes(lambda: sent(one, two), 60)
