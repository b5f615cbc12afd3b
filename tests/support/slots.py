"""Dispatchers of which only the keeper of slots is there, looked after by the test's own hand."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from dispatcher.core.owned_slots import OwnedSlots
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.upkeep.registry import Registry
from dispatcher.upkeep.slot_keeper import SlotKeeper
from tests.support.postgres import unopened
from tests.support.tap import Tap


class Clock:
    """A clock that stands still until it is told to go on. Seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(slots=True)
class Keeping:
    """One dispatcher: in the registry, with a view that has loaded all that it gained."""

    registry: Registry
    control: Session
    upkeep: Session
    view: OwnedSlots
    keeper: SlotKeeper
    tap: Tap
    clock: Clock
    share: list[int | None]  # one element: of how many slots it may own some

    @property
    def id(self) -> int:
        """Its id in the registry."""
        assert self.registry.id is not None
        return self.registry.id

    async def look(self) -> None:
        """One look of the keeper; what was gained is loaded at once."""
        await self.keeper.follow_plan(self.control)
        self.view.loaded(self.view.gained)

    async def die(self, db: Any) -> None:
        """End its control session, and wait until its lock is free."""
        await db.execute("SELECT pg_terminate_backend(%s, 5000)", (self.control.backend_pid,))
        await self.control.close()
        self.registry.control.session = None


Keep = Callable[..., Awaitable[Keeping]]


@pytest.fixture
async def keep(database_url: str) -> AsyncIterator[Keep]:
    """`one = await keep("beef0001")`: a dispatcher that has not looked yet. `lease_s`: then others are frozen."""
    async with AsyncExitStack() as stack:

        async def make(token: str, *, share: int | None = 256, lease_s: float = 30.0) -> Keeping:
            name = f"host-1-{token}"
            control, upkeep = [
                await connect(PostgresTarget(database_url, f"{token} {name}"), purpose)
                for purpose in ("control", "upkeep")
            ]
            stack.push_async_callback(control.close)
            stack.push_async_callback(upkeep.close)
            links = unopened(), unopened()
            links[0].session, links[1].session = control, upkeep
            registry, view, tap, clock, shares = Registry(name, links[0]), OwnedSlots(), Tap(), Clock(), [share]
            keeper = SlotKeeper(
                registry,
                links[1],
                [view],
                may_own=lambda: shares[0],
                lease_s=lease_s,
                observe=tap,
                clock=clock,
            )
            await registry.enrol(control)
            return Keeping(registry, control, upkeep, view, keeper, tap, clock, shares)

        yield make


async def owners(db: Any) -> dict[int | None, int]:
    """How many slots each dispatcher owns; None: nobody."""
    rows = await (await db.execute("SELECT owner, count(*) FROM messaging.slot_owner GROUP BY owner")).fetchall()
    return dict(rows)


async def shares_of(db: Any) -> list[int]:
    """How many slots each dispatcher owns that owns some, the largest first."""
    return sorted((count for owner, count in (await owners(db)).items() if owner is not None), reverse=True)
