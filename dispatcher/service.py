"""The service: opens everything, owns the signals and the stop, and ends when any part of it dies."""

import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from random import Random, SystemRandom
from typing import Any, Literal
from uuid import uuid4

import anyio
from anyio.abc import TaskGroup, TaskStatus

from dispatcher.core.backoff import Backoff
from dispatcher.core.breaker import Breaker
from dispatcher.core.decide import RetryPolicy
from dispatcher.core.entry import EntryFormat
from dispatcher.core.errors import DispatcherError, Misconfigured, SessionLost, Unreachable
from dispatcher.core.events import (
    DatabaseChanged,
    ListenerChanged,
    Observer,
    Started,
    Stopped,
    Stopping,
    fan_out,
)
from dispatcher.core.pacing import BatchPacer
from dispatcher.infra.broker import Broker, BrokerTarget
from dispatcher.infra.database import Session, Target
from dispatcher.infra.link import Changed, Link
from dispatcher.infra.migrations import missing
from dispatcher.infra.sqlfiles import load
from dispatcher.relay import Relay, RelayPolicy
from dispatcher.settings import Settings
from dispatcher.sidecar import app, probes
from dispatcher.stages.gate import Gate
from dispatcher.stages.wake import Doorbell
from dispatcher.telemetry import logs, metrics
from dispatcher.upkeep import gauges
from dispatcher.upkeep.backpressure import Backpressure
from dispatcher.upkeep.registry import Registry
from dispatcher.upkeep.retention import Retention
from dispatcher.upkeep.stream_audit import StreamAudit
from dispatcher.upkeep.takeover import Takeover

LANES = 3
CONTROL_TIMEOUT_S = 5.0
BREAKER = Backoff(base_s=0.1, cap_s=0.5)  # the first event is out within a second of Redis's return


async def run(settings: Settings, *, observe: Observer | None = None) -> int:
    """Run until SIGTERM or SIGINT; 0 after a clean stop, 1 after one that was forced or ran out of its grace.

    Raises DispatcherError when a person has to act. `observe` hears every event, beside metrics and logs.
    """
    service = Service(settings, observe)
    with _one_error():
        async with anyio.create_task_group() as everything:
            await everything.start(service.watch_signals)
            try:
                await service.run()
            finally:
                everything.cancel_scope.cancel()
    return service.exit_code


class Service:
    """Everything one dispatcher process is made of."""

    def __init__(self, settings: Settings, observe: Observer | None = None) -> None:
        self._settings = settings
        self.exit_code = 0  # written by run() and watch_signals()
        self._readiness = probes.Readiness()
        self._metrics = metrics.Metrics()
        log = logs.configure(settings.log_level, settings.log_format)
        beside: list[Observer] = [observe] if observe else []
        self._observe = fan_out(self._readiness.observe, self._metrics, log, *beside)
        self._stopping = anyio.Event()
        self._forced = anyio.CancelScope()

        s, rng = settings, SystemRandom()
        token = uuid4().hex[:8]  # pod names and process ids come again; a successor must not fence a namesake
        name = f"{socket.gethostname()}-{os.getpid()}-{token}"
        slots = round(256 * s.canary_percent / 100)
        self._name = name
        self._session_name = f"{token} {name}"  # the token first: Postgres keeps 63 bytes
        self._registry = Registry(name)
        self._doorbell = Doorbell(
            tick_s=s.tick_ms / 1000, slots=slots, ping_channel=f"outbox_ping_{uuid4().hex}", observe=self._observe
        )
        self._pooled = s.listen_url != s.database_url
        database = _AnyUp(self._observe)
        self._control = Link(
            self._listening, "control", prepare=self._prepare_control, changed=self._listener_changed, rng=rng
        )
        # Direct: the takeover takes session locks.
        self._upkeep = Link(self._direct, "upkeep", prepare=self._check, changed=database.changed("upkeep"), rng=rng)
        self._lanes = [
            Link(self._database, f"lane-{n}", prepare=self._check, changed=database.changed(f"lane-{n}"), rng=rng)
            for n in range(LANES)
        ]
        links = [self._control, self._upkeep, *self._lanes]
        for link in links:
            link.companions = [other for other in links if other is not link]
        self._gate, self._relay = self._build_relay(slots, rng)

    def _database(self) -> Target:
        """The database as it is to be reached now: its password may have changed."""
        return self._target("database_url", pooled=self._pooled)

    def _direct(self) -> Target:
        """The same without a pooler between."""
        return self._target("listen_url", pooled=False)

    def _listening(self) -> Target:
        """The same with little patience: its statements are short, so it is the first to find a silent network out."""
        target = self._direct()
        return replace(target, query_timeout_s=min(target.query_timeout_s, CONTROL_TIMEOUT_S))

    def _target(self, which: Literal["database_url", "listen_url"], *, pooled: bool) -> Target:
        s = self._settings
        return Target(
            s.current(which),
            self._session_name,
            connect_timeout_s=s.connect_timeout_ms / 1000,
            query_timeout_s=s.query_timeout_ms / 1000,
            pooled=pooled,
        )

    def _build_relay(self, slots: int, rng: Random) -> tuple[Gate, Relay]:
        s = self._settings
        publish_timeout_s = s.publish_timeout_ms / 1000
        BrokerTarget.parse(s.redis_url)  # what is wrong with it is said at once, also while disabled
        broker = Broker(
            lambda: BrokerTarget.parse(s.current("redis_url")),
            name=self._name,
            stream=s.stream_name,
            connect_timeout_s=s.connect_timeout_ms / 1000,
            on_lost=lambda why: self._doorbell.nudge(),
        )
        self._audit = StreamAudit(
            s.stream_name,
            self._upkeep,
            window_s=s.audit_window_s,
            deadline_s=publish_timeout_s,
            wake=self._doorbell.nudge,
            observe=self._observe,
        )
        gate = Gate(
            broker,
            Breaker(BREAKER, rng),
            stream=s.stream_name,
            timeout_s=publish_timeout_s,
            observe=self._observe,
            verify=self._audit.verify,
        )
        self._backpressure = Backpressure(
            broker, stream=s.stream_name, maxlen=s.stream_maxlen, deadline_s=publish_timeout_s, observe=self._observe
        )
        backoff = Backoff(s.backoff_base_ms / 1000, s.backoff_max_ms / 1000)
        relay = Relay(
            RelayPolicy(
                EntryFormat(s.stream_name, s.stream_maxlen, s.max_payload_bytes),
                RetryPolicy(s.max_attempts, backoff),
                publish_timeout_s,
                slots,
                s.lease_ms / 1000,
            ),
            gate=gate,
            doorbell=self._doorbell,
            control=self._control,
            lanes=self._lanes,
            pacer=BatchPacer(s.batch_size),
            room=self._backpressure,
            # Without the registry's lock we look dead: what is claimed then must not be taken for a dead one's.
            dispatcher_id=lambda: self._registry.id if self._control.session is not None else None,
            observe=self._observe,
            rng=rng,
        )
        return gate, relay

    def stop(self, reason: str) -> None:
        """Begin the stop: nothing new is taken. Idempotent."""
        if not self._stopping.is_set():
            self._observe(Stopping(reason))
            self._stopping.set()
            self._relay.stop()

    async def watch_signals(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """SIGTERM or SIGINT stops; a second one forces."""
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for number in signals:
                if self._stopping.is_set():
                    self.exit_code = 1
                    self._forced.cancel()
                self.stop(signal.Signals(number).name)

    async def run(self) -> None:
        """Open everything, relay until stopped, close everything."""
        with self._forced:
            async with anyio.create_task_group() as beside:
                try:
                    await self._open(beside)
                    self._observe(Started(self._name, self._settings.enabled))
                    await self._work()
                finally:
                    beside.cancel_scope.cancel()
        self._gate.broker.close()
        self._observe(Stopped(0))

    async def _open(self, beside: TaskGroup) -> None:
        s = self._settings
        if s.http_enabled:
            site = app.build(self._readiness, self._metrics.registry)
            await beside.start(app.serve, site, s.http_host, s.http_port, name="sidecar")
        links = [self._upkeep, *([self._control, *self._lanes] if s.enabled else [])]
        async with anyio.create_task_group() as opening:
            opening.start_soon(self._give_up_opening, opening.cancel_scope)
            async with anyio.create_task_group() as first_tries:
                for link in links:
                    first_tries.start_soon(beside.start, link.keep)
            opening.cancel_scope.cancel()
        if s.enabled:
            takeover = Takeover(
                self._gate.broker,
                stream=s.stream_name,
                lease_s=s.lease_ms / 1000,
                deadline_s=s.publish_timeout_ms / 1000,
                dispatcher_id=lambda: self._registry.id,
                in_flight=lambda: self._relay.in_flight,
                freed=self._doorbell.nudge,
                observe=self._observe,
            )
            beside.start_soon(takeover.run, self._upkeep, name="takeover")
            beside.start_soon(self._audit.run, self._gate.broker, name="stream audit")
            beside.start_soon(self._backpressure.run, self._upkeep, name="backpressure")
            retention = Retention(
                outbox_days=s.outbox_retention_days, dlq_days=s.dlq_retention_days, observe=self._observe
            )
            beside.start_soon(retention.run, self._upkeep, name="retention")
        beside.start_soon(self._sample, name="gauges")

    async def _give_up_opening(self, scope: anyio.CancelScope) -> None:
        await self._stopping.wait()
        scope.cancel()

    async def _work(self) -> None:
        """Relay until stopped, then give what is in flight its grace."""
        if not self._settings.enabled:
            await self._stopping.wait()
            return
        finished = False
        async with anyio.create_task_group() as working:

            async def deadline() -> None:
                await self._stopping.wait()
                await anyio.sleep(self._settings.shutdown_grace_ms / 1000)
                self.exit_code = 1
                # The links too: a statement in flight is shielded, and only its session's end ends it.
                self._forced.cancel()

            working.start_soon(deadline, name="grace")
            await self._relay.run()
            finished = True
            working.cancel_scope.cancel()
        if finished and self._control.session is not None:
            await self._registry.sign_off(self._control.session)

    async def _sample(self) -> None:
        await gauges.run(
            self._fetch_beside,
            lambda: self._settings.current("redis_url"),
            f"dispatcher-gauges-{self._name}",
            self._settings.stream_name,
            self._observe,
        )

    async def _fetch_beside(self, sql: str, params: Mapping[str, object] | None) -> list[tuple[Any, ...]]:
        session = await self._upkeep.get()
        try:
            return await session.fetch(sql, params)
        except SessionLost as error:
            await self._upkeep.broke(session, str(error))
            raise

    async def _prepare_control(self, session: Session) -> None:
        await self._check(session)
        await self._doorbell.attach(session)
        await self._registry.enrol(session)

    async def _check(self, session: Session) -> None:
        """Raises Misconfigured when a table or a right is missing, Unreachable when the server is a standby."""
        [(standby,)] = await session.fetch(
            "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on'"
        )
        if standby:
            raise Unreachable(f"Postgres at {self._database().address()} is read-only: a standby, or about to be one")
        if gone := await missing(session):
            raise Misconfigured(
                f"Postgres at {self._database().address()} lacks {', '.join(gone)}: run `dispatcher migrate` first"
            )
        if denied := [what for (what,) in await session.fetch(load("rights"))]:
            raise Misconfigured(
                f"the role at {self._database().address()} lacks {'; '.join(denied)}: "
                "grant it the role outbox_dispatcher (sql/roles.sql)"
            )

    def _listener_changed(self, up: bool, reason: str | None) -> None:
        self._observe(ListenerChanged(up, reason))
        if up:
            self._doorbell.nudge()


class _AnyUp:
    """Turns the changes of several links into one state: the database is up while any of them is."""

    def __init__(self, observe: Observer) -> None:
        self._observe = observe
        self._up: set[str] = set()
        self._said: bool | None = None

    def changed(self, purpose: str) -> Changed:
        def note(up: bool, reason: str | None) -> None:
            (self._up.add if up else self._up.discard)(purpose)
            now_up = bool(self._up)
            if now_up != self._said:
                self._said = now_up
                self._observe(DatabaseChanged(now_up, None if now_up else reason))

        return note


@contextmanager
def _one_error() -> Iterator[None]:
    """Let the one error a person should read out of the task groups' wrapping."""
    try:
        yield
    except BaseExceptionGroup as group:
        for error in _leaves(group):
            if isinstance(error, DispatcherError):
                raise error from None
        raise


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
