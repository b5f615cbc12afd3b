"""Puts the stream relay together, and what stands between it and Redis, from the settings."""

from collections.abc import Callable
from dataclasses import dataclass

from dispatcher.core.backoff import Backoff
from dispatcher.core.breaker import Breaker
from dispatcher.core.events import BreakerChanged, Reconciled, StillAway, TelemetryEvent
from dispatcher.infra.redis.connection import RedisConnection, RedisTarget
from dispatcher.infra.redis.search import Searcher
from dispatcher.relay.policy import StreamPause, StreamPolicy
from dispatcher.relay.stream.gate import SinkGate
from dispatcher.relay.stream.relay import StreamParts, StreamRelay
from dispatcher.service.context import Context
from dispatcher.service.policies import claim_policy, entry_formats, retry_policy
from dispatcher.stages.claim import EventTypeFilter
from dispatcher.upkeep.backpressure import Backpressure
from dispatcher.upkeep.postgres_crash import PostgresCrashAudit
from dispatcher.upkeep.redis_loss import RedisLossAudit

BREAKER = Backoff(base_s=0.1, cap_s=0.5)  # the first event is out within a second of Redis's return


@dataclass(frozen=True, slots=True)
class StreamEngine:
    """The stream relay, and what guards its way to Redis."""

    relay: StreamRelay
    connection: RedisConnection
    searcher: Searcher
    redis_loss: RedisLossAudit
    postgres_crash: PostgresCrashAudit
    backpressure: Backpressure


def build_stream_engine(
    c: Context, *, event_types: EventTypeFilter | None, on_turn: Callable[[], None]
) -> StreamEngine:
    """Put the stream relay together. Raises Misconfigured when REDIS_URL cannot be read, also while disabled.

    `event_types`: what it claims, None for all; `on_turn()` is called at each turn of it.
    """
    s, layout, deadline_s = c.settings, c.settings.layout, c.settings.publish_timeout_ms / 1000
    RedisTarget.parse(s.redis_url)

    def connection(name: str, on_lost: Callable[[str], None]) -> RedisConnection:
        return RedisConnection(
            lambda: RedisTarget.parse(s.current("redis_url")),
            name=name,
            streams=layout.keys,
            connect_timeout_s=s.connect_timeout_ms / 1000,
            on_lost=on_lost,
        )

    # One name for the two that publish: whoever fences us ends all connections of that name.
    publisher = connection(c.name, lambda why: c.doorbell.nudge())
    bisector = connection(c.name, _found_out_by_its_user)
    searcher = connection(f"look-{c.name}", _found_out_by_its_user)
    redis_loss = RedisLossAudit(
        layout.keys,
        c.sessions.upkeep,
        unnamed=layout.stream,
        window_s=s.audit_window_s,
        deadline_s=deadline_s,
        wake=c.doorbell.nudge,
        observe=c.observe,
    )
    postgres_crash = PostgresCrashAudit(
        layout.keys,
        layout=c.layout,
        publisher=publisher,
        searcher=searcher,
        verify=redis_loss.verify,
        deadline_s=deadline_s,
        wake=c.doorbell.nudge,
        observe=c.observe,
    )
    searches = Searcher(
        connection(f"look-{c.name}", _found_out_by_its_user),
        deadline_s,
        lambda connected: redis_loss.verify(connected, holds=publisher.incarnation),
    )
    gate = SinkGate(
        publisher,
        Breaker(BREAKER, c.rng),
        layout=layout,
        timeout_s=deadline_s,
        observe=c.observe,
        verify=redis_loss.verify,
        searcher=searches,
    )
    bisector_gate = SinkGate(
        bisector,
        Breaker(BREAKER, c.rng),
        layout=layout,
        timeout_s=deadline_s,
        observe=lambda event: None if _is_routine(event) else c.observe(event),
        verify=lambda connected: redis_loss.verify(connected, holds=publisher.incarnation),
        searcher=searches,
        retry_misconfigured=True,
    )
    backpressure = Backpressure(
        publisher,
        streams=layout.keys,
        maxlen=s.stream_maxlen,
        deadline_s=deadline_s,
        exempt=s.backpressure_except,
        observe=c.observe,
    )
    pause = StreamPause(c.pause, lambda: c.layout.differs)
    relay = StreamRelay(
        StreamPolicy(claim_policy(s, event_types, layout=layout), entry_formats(s), retry_policy(s), deadline_s),
        StreamParts(gate, bisector_gate, c.doorbell, c.sessions.lanes, c.sessions.chores, backpressure, pause),
        batch_size=s.batch_size,
        dispatcher_id=c.registry.locked_id,
        on_turn=on_turn,
        observe=c.observe,
        rng=c.rng,
    )
    return StreamEngine(relay, publisher, searches, redis_loss, postgres_crash, backpressure)


def _found_out_by_its_user(why: str) -> None:
    """Tell nobody: whoever uses the connection finds out."""


def _is_routine(event: TelemetryEvent) -> bool:
    """Whether the bisector's connection says nothing new: each cut of it is followed by a search."""
    return isinstance(event, BreakerChanged | StillAway) or (isinstance(event, Reconciled) and not event.found)
