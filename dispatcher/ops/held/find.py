"""Finds held aggregates, and counts them. Postgres writes their JSON, as it does for dead events."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from dispatcher.core.process_state import HeldCount, HeldHead
from dispatcher.infra.postgres.session import Fetch
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.dead_letters.find import Filter

PAGE = 1000  # the most aggregates of one page
BOUND = 1_000_001  # unsettled rows that are looked at


@dataclass(frozen=True, slots=True)
class StandingOrder:
    """The order that stands in Postgres with the layout. `on`: within an aggregate; `hold`: a dead event holds too."""

    on: bool = False
    hold: bool = False


@dataclass(frozen=True, slots=True)
class HeldPage:
    """A page of held aggregates by the ids of their heads. `aggregates`: the text of a JSON array of `count` objects.

    `total`: how many match, on all pages. `order`: without it nothing is held, and nothing was asked.
    """

    order: StandingOrder
    total: int = 0
    count: int = 0
    aggregates: str = "[]"

    def read(self) -> list[dict[str, Any]]:
        """The objects: id, event_id, event_type, aggregate_type, aggregate_id, state, attempts, last_error, waiting,
        since, next_attempt_at."""
        found: list[dict[str, Any]] = json.loads(self.aggregates)
        return found

    def as_json(self, limit: int) -> str:
        """One JSON object, as the API answers."""
        order, on_dead = ("aggregate", "hold" if self.order.hold else "continue") if self.order.on else ("none", None)
        more = {"total": self.total, "count": self.count, "limit": limit, "order": order, "order_on_dead": on_dead}
        return f'{{"aggregates": {self.aggregates}, {json.dumps(more)[1:]}'


async def read_order(fetch: Fetch) -> StandingOrder:
    """What stands in Postgres: a command must not guess it from its own environment."""
    [(_, spec, *_)] = await fetch(load("layout_state"), None)
    if not isinstance(spec, dict) or spec.get("order") != "aggregate":
        return StandingOrder()
    return StandingOrder(True, spec.get("order_on_dead") == "hold")


async def find_held(fetch: Fetch, which: Filter, *, limit: int = PAGE, after: int = 0, bound: int = BOUND) -> HeldPage:
    """At most `limit` held aggregates whose head has an id above `after`, in the order of these ids."""
    order = await read_order(fetch)
    if not order.on:
        return HeldPage(order)
    parameters = {"hold": order.hold, "limit": limit, "after_id": after, "bound": bound}
    [(total, count, objects)] = await fetch(load("held"), asdict(which) | parameters)
    return HeldPage(order, total, count, f"[{objects or ''}]")


async def count_held(fetch: Fetch, *, hold: bool) -> HeldCount:
    """Count them, and read the first. `hold`: whether a dead event holds its aggregate too."""
    [(aggregates, by_dead, oldest_s, error)] = await fetch(load("held_count"), {"hold": hold, "bound": BOUND})
    head = None
    if aggregates:
        page = await fetch(load("held"), asdict(Filter()) | {"hold": hold, "limit": 1, "after_id": 0, "bound": BOUND})
        if (first := page[0][2]) is not None:
            one = json.loads(first)
            fields = ("id", "event_type", "aggregate_type", "aggregate_id", "state", "waiting", "last_error")
            head = HeldHead(*(one[name] for name in fields))
    return HeldCount(aggregates, by_dead, oldest_s, error, head)
