"""Starts what runs beside the relays: takeover, slots, audits, backpressure, retention and gauges."""

from collections.abc import Mapping
from typing import Any

from anyio.abc import TaskGroup

from dispatcher.service.context import Context
from dispatcher.service.engine import Engine
from dispatcher.service.order import Order
from dispatcher.upkeep import gauges
from dispatcher.upkeep.adopted import SearchedSink
from dispatcher.upkeep.retention import Retention
from dispatcher.upkeep.slot_handover import SlotHandover
from dispatcher.upkeep.slot_keeper import SlotKeeper
from dispatcher.upkeep.takeover import Takeover


def start_upkeep(tasks: TaskGroup, c: Context, engine: Engine, order: Order | None, keeper: SlotKeeper | None) -> None:
    """Start the duties of a dispatcher that takes rows. `order`, `keeper`: where events are kept in order."""
    s, upkeep, stream = c.settings, c.sessions.upkeep, engine.stream
    takeover = Takeover(
        [SearchedSink(sink.keys, sink.connection, sink.searcher, sink.slots) for sink in stream.sinks]
        if stream
        else [],
        layout=c.layout,
        lease_s=s.lease_ms / 1000,
        deadline_s=s.publish_timeout_ms / 1000,
        retry=engine.handler_retry,
        rng=c.rng,
        dispatcher_id=lambda: c.registry.id,
        own_row_gone=c.registry.enrol_again,
        claims_in_flight=engine.claims_in_flight,
        rows_released=engine.rows_released,
        observe=c.observe,
        handover=SlotHandover(keeper, c.observe) if keeper else None,
    )
    tasks.start_soon(takeover.run, upkeep, name="takeover")
    if order is not None and keeper is not None:
        tasks.start_soon(keeper.run, name="slots")
        tasks.start_soon(order.bell.run, name="bell of the owners")
    if stream is not None:
        for sink in stream.sinks:
            tasks.start_soon(sink.redis_loss.run, sink.connection, name="stream audit")
        tasks.start_soon(stream.postgres_crash.run, upkeep, name="crash audit")
        first, *others = [sink.backpressure for sink in stream.sinks]
        tasks.start_soon(first.run, c.sessions.chores, others, name="backpressure")
    retention = Retention(outbox_days=s.outbox_retention_days, dlq_days=s.dlq_retention_days, observe=c.observe)
    tasks.start_soon(retention.run, c.sessions.chores, name="retention")


async def run_gauges(c: Context, engine: Engine) -> None:
    """Sample until cancelled, whether the dispatcher takes rows or not."""
    s, layout = c.settings, c.settings.layout

    async def fetch(sql: str, params: Mapping[str, object] | None) -> list[tuple[Any, ...]]:
        session = await c.sessions.chores.get()
        return await session.fetch(sql, params)

    await gauges.run(
        fetch,
        lambda: s.current("redis_url") if engine.stream else "",
        f"dispatcher-gauges-{c.name}",
        layout.keys,
        c.observe,
        exempt=s.backpressure_except,
        held=gauges.HeldLookup(hold=layout.on_dead == "hold") if layout.order != "none" else None,
    )
