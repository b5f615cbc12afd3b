"""Owners of slots: shared fairly, handed over when nothing is in hand, never two at once, whoever joins or dies."""

from typing import Any

from dispatcher.core.events import SlotsChanged, SlotsRevoked
from tests.support.running import StartDispatcher
from tests.support.slots import owners, shares_of
from tests.support.waiting import becomes

IN_ORDER: dict[str, Any] = {"order": "aggregate"}


async def test_slots_are_shared_when_dispatchers_join_and_leave(dispatcher: StartDispatcher, db: Any) -> None:
    async with dispatcher(**IN_ORDER) as first:
        await first.tap.next(SlotsChanged, lambda event: event.owned == 256)
        async with dispatcher(**IN_ORDER) as second:
            await becomes(lambda: shares_of(db), [128, 128])
            async with dispatcher(**IN_ORDER) as third:
                await becomes(lambda: shares_of(db), [86, 85, 85])
                assert all(event.ranges == 1 for event in third.tap.all(SlotsChanged) if event.owned == 85)
            await becomes(lambda: shares_of(db), [128, 128])
        await becomes(lambda: shares_of(db), [256])
        assert not any(each.tap.all(SlotsRevoked) for each in (first, second, third)), "nobody was taken for dead"
    await becomes(lambda: owners(db), {None: 256})
