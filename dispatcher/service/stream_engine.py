"""Puts the stream relay together, and what stands between it and Redis, from the settings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dispatcher.core.backoff import Backoff
from dispatcher.core.breaker import Breaker
from dispatcher.core.events import BreakerChanged, Observer, Reconciled, StillAway, TelemetryEvent
from dispatcher.core.layout import Layout
from dispatcher.infra.redis.connection import RedisConnection, RedisTarget
from dispatcher.infra.redis.search import Searcher
from dispatcher.relay.order.in_order import OrderParts
from dispatcher.relay.policy import LayoutPause, StreamPolicy
from dispatcher.relay.stream.gate import SinkGate
from dispatcher.relay.stream.relay import SinkParts, StreamParts, StreamRelay
from dispatcher.service.context import Context
from dispatcher.service.one_voice import OneVoice
from dispatcher.service.policies import claim_policy, entry_formats, retry_policy
from dispatcher.stages.claim import EventTypeFilter
from dispatcher.upkeep.backpressure import Backpressure
from dispatcher.upkeep.postgres_crash import AuditedSink, PostgresCrashAudit
from dispatcher.upkeep.redis_loss import RedisLossAudit

BREAKER = Backoff(base_s=0.1, cap_s=0.5)  # the first event is out within a second of Redis's return


@dataclass(frozen=True, slots=True)
class EngineSink:
    """One gate to Redis, and what guards it: a server, or one shard of a Cluster."""

    keys: tuple[str, ...]
    slots: Sequence[int]  # whose rows go there; none where that is not a question of slots
    connection: RedisConnection
    gate: SinkGate
    bisector_gate: SinkGate
    searcher: Searcher
    redis_loss: RedisLossAudit
    backpressure: Backpressure
    crash_search: RedisConnection


@dataclass(frozen=True, slots=True)
class StreamEngine:
    """The stream relay, and what guards its way to Redis."""

    relay: StreamRelay
    sinks: Sequence[EngineSink]
    postgres_crash: PostgresCrashAudit

    def close(self) -> None:
        """Close the connections that publish."""
        for sink in self.sinks:
            sink.connection.close()


def build_stream_engine(
    c: Context, *, event_types: EventTypeFilter | None, wake_handlers: Callable[[], None]
) -> StreamEngine:
    """Put the stream relay together. Raises Misconfigured when REDIS_URL cannot be read, also while disabled.

    `event_types`: what it claims, None for all; `wake_handlers()`: see StreamRelay.
    """
    s, layout, deadline_s = c.settings, c.settings.layout, c.settings.publish_timeout_ms / 1000
    groups: list[tuple[tuple[str, ...], Sequence[int]]] = [(layout.keys, ())]
    observe = c.observe
    if RedisTarget.parse(s.redis_url).cluster is not None and not layout.plain:
        groups = shard_groups(layout)
    voices = [OneVoice(keys[0] if slots else "", c.observe) for keys, slots in groups] if len(groups) > 1 else []
    sinks = [
        _build_sink(c, keys, slots, voices[number].observe if voices else observe)
        for number, (keys, slots) in enumerate(groups)
    ]
    OneVoice.join(voices)
    numbers = {key: number for number, (keys, _) in enumerate(groups) for key in keys}
    postgres_crash = PostgresCrashAudit(
        [AuditedSink(sink.keys, sink.connection, sink.crash_search, sink.redis_loss.verify) for sink in sinks],
        layout=c.layout,
        deadline_s=deadline_s,
        wake=c.doorbell.nudge,
        observe=c.observe,
    )
    pause = LayoutPause(c.pause, lambda: c.layout.differs)
    relay = StreamRelay(
        StreamPolicy(
            claim_policy(s, event_types, layout=layout), entry_formats(s), retry_policy(s), deadline_s, c.make_spans
        ),
        StreamParts(
            [SinkParts(sink.gate, sink.bisector_gate, sink.backpressure, sink.slots) for sink in sinks],
            c.doorbell,
            c.sessions.lanes,
            c.sessions.chores,
            pause,
            lambda row: numbers[layout.key_of(row.event_type, row.slot)],
            OrderParts(c.stream_slots, hold=s.order_on_dead == "hold") if c.stream_slots is not None else None,
        ),
        batch_size=s.batch_size,
        # In order the claim asks in Postgres whether its slots are still owned by this id. So it carries the id also
        # without the lock: a dispatcher that takes the slots away ends our sessions first.
        dispatcher_id=c.registry.locked_id if c.stream_slots is None else lambda: c.registry.id,
        wake_handlers=wake_handlers,
        observe=c.observe,
        rng=c.rng,
    )
    return StreamEngine(relay, sinks, postgres_crash)


def _build_sink(c: Context, keys: tuple[str, ...], slots: Sequence[int], observe: Observer) -> EngineSink:
    s, layout, deadline_s = c.settings, c.settings.layout, c.settings.publish_timeout_ms / 1000

    def connection(name: str, on_lost: Callable[[str], None]) -> RedisConnection:
        return RedisConnection(
            lambda: RedisTarget.parse(s.current("redis_url")),
            name=name,
            streams=keys,
            connect_timeout_s=s.connect_timeout_ms / 1000,
            on_lost=on_lost,
        )

    # One name for the two that publish: whoever fences us ends all connections of that name.
    publisher = connection(c.name, lambda why: c.doorbell.nudge())
    bisector = connection(c.name, _found_out_by_its_user)
    redis_loss = RedisLossAudit(
        keys,
        c.sessions.upkeep,
        default_stream=layout.stream,
        window_s=s.audit_window_s,
        deadline_s=deadline_s,
        wake=c.doorbell.nudge,
        observe=observe,
    )
    searches = Searcher(
        connection(f"look-{c.name}", _found_out_by_its_user),
        deadline_s,
        lambda connected: redis_loss.verify(connected, publisher_at=publisher.incarnation),
    )
    gate = SinkGate(
        publisher,
        Breaker(BREAKER, c.rng),
        layout=layout,
        timeout_s=deadline_s,
        observe=observe,
        verify=redis_loss.verify,
        searcher=searches,
        in_order=c.stream_slots is not None,
    )
    bisector_gate = SinkGate(
        bisector,
        Breaker(BREAKER, c.rng),
        layout=layout,
        timeout_s=deadline_s,
        observe=lambda event: None if _is_routine(event) else observe(event),
        verify=lambda connected: redis_loss.verify(connected, publisher_at=publisher.incarnation),
        searcher=searches,
        retry_misconfigured=True,
        in_order=c.stream_slots is not None,
    )
    backpressure = Backpressure(
        publisher,
        streams=keys,
        maxlen=s.stream_maxlen,
        deadline_s=deadline_s,
        exempt=s.backpressure_except,
        observe=observe,
    )
    crash_search = connection(f"look-{c.name}", _found_out_by_its_user)
    return EngineSink(keys, slots, publisher, gate, bisector_gate, searches, redis_loss, backpressure, crash_search)


def shard_groups(layout: Layout) -> list[tuple[tuple[str, ...], Sequence[int]]]:
    """What moves as a whole in a Cluster: the keys of one shard, and the slots of its rows. Without shards each key."""
    if layout.shards == 1:
        return [((key,), ()) for key in layout.keys]
    return [
        (tuple(layout.keys_of(stream)[shard] for stream in layout.streams), layout.slots_of(shard))
        for shard in range(layout.shards)
    ]


def _found_out_by_its_user(why: str) -> None:
    """Tell nobody: whoever uses the connection finds out."""


def _is_routine(event: TelemetryEvent) -> bool:
    """Whether the bisector's connection says nothing new: each cut of it is followed by a search."""
    return isinstance(event, BreakerChanged | StillAway) or (isinstance(event, Reconciled) and not event.found)
