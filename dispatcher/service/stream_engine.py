"""What the settings make of the relay and of what stands between it and Redis."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from dispatcher.core.backoff import Backoff
from dispatcher.core.breaker import Breaker
from dispatcher.core.events import BreakerChanged, Observer, Reconciled, TelemetryEvent
from dispatcher.core.pacing import BatchSizer
from dispatcher.infra.redis.connection import RedisConnection, RedisTarget
from dispatcher.relay import RelayPolicy, StreamRelay
from dispatcher.relay.stream.gate import SinkGate
from dispatcher.service.policies import entry_format, retry_policy, slots
from dispatcher.service.sessions import Sessions
from dispatcher.settings import Settings
from dispatcher.stages.claim import EventTypeFilter
from dispatcher.stages.doorbell.wake import Doorbell
from dispatcher.upkeep.backpressure import Backpressure
from dispatcher.upkeep.pause import PauseWatcher
from dispatcher.upkeep.postgres_crash import PostgresCrashAudit
from dispatcher.upkeep.redis_loss import RedisLossAudit

BREAKER = Backoff(base_s=0.1, cap_s=0.5)  # the first event is out within a second of Redis's return


@dataclass(frozen=True, slots=True)
class StreamEngine:
    """The relay, and what guards its way to Redis."""

    relay: StreamRelay
    connection: RedisConnection
    audit: RedisLossAudit
    crash_audit: PostgresCrashAudit
    backpressure: Backpressure


def build_stream_engine(
    s: Settings,
    name: str,
    links: Sessions,
    *,
    share: EventTypeFilter | None,
    beside: Callable[[], None] | None,
    dispatcher_id: Callable[[], int | None],
    doorbell: Doorbell,
    pause: PauseWatcher,
    observe: Observer,
    rng: Random,
) -> StreamEngine:
    """Put the relay together. Raises Misconfigured when REDIS_URL cannot be read, also while disabled."""
    publish_timeout_s = s.publish_timeout_ms / 1000
    RedisTarget.parse(s.redis_url)
    # One name for the two that publish: whoever fences us ends all connections of that name.
    connection, apart, looker = (
        RedisConnection(
            lambda: RedisTarget.parse(s.current("redis_url")),
            name=known_as,
            stream=s.stream_name,
            connect_timeout_s=s.connect_timeout_ms / 1000,
            on_lost=on_lost,
        )
        for known_as, on_lost in (
            (name, lambda why: doorbell.nudge()),
            (name, _unnoticed),
            (f"look-{name}", _unnoticed),
        )
    )
    audit = RedisLossAudit(
        s.stream_name,
        links.upkeep,
        window_s=s.audit_window_s,
        deadline_s=publish_timeout_s,
        wake=doorbell.nudge,
        observe=observe,
    )
    crash_audit = PostgresCrashAudit(
        s.stream_name,
        publisher=connection,
        looker=looker,
        verify=audit.verify,
        deadline_s=publish_timeout_s,
        wake=doorbell.nudge,
        observe=observe,
    )
    gate = SinkGate(
        connection,
        Breaker(BREAKER, rng),
        stream=s.stream_name,
        timeout_s=publish_timeout_s,
        observe=observe,
        verify=audit.verify,
    )
    gate_apart = SinkGate(
        apart,
        Breaker(BREAKER, rng),
        stream=s.stream_name,
        timeout_s=publish_timeout_s,
        observe=lambda event: None if _is_routine(event) else observe(event),
        verify=lambda connected: audit.verify(connected, holds=connection.incarnation),
        patient=True,
    )
    backpressure = Backpressure(
        connection, stream=s.stream_name, maxlen=s.stream_maxlen, deadline_s=publish_timeout_s, observe=observe
    )
    relay = StreamRelay(
        RelayPolicy(entry_format(s), retry_policy(s), publish_timeout_s, slots(s), s.lease_ms / 1000, share),
        gate=gate,
        apart=gate_apart,
        doorbell=doorbell,
        control=links.control,
        lanes=links.lanes,
        pacer=BatchSizer(s.batch_size),
        room=backpressure,
        pause=pause,
        dispatcher_id=dispatcher_id,
        observe=observe,
        rng=rng,
        beside=beside,
    )
    return StreamEngine(relay, connection, audit, crash_audit, backpressure)


def _unnoticed(why: str) -> None:
    """Whoever uses the connection finds out."""


def _is_routine(event: TelemetryEvent) -> bool:
    """The state of the main connection is what people are told; here each cut is followed by a look."""
    return isinstance(event, BreakerChanged) or (isinstance(event, Reconciled) and not event.found)
