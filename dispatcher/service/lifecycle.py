"""From the first connection to the last goodbye of one dispatcher process."""

import os
import signal
import socket
from random import SystemRandom
from uuid import uuid4

import anyio
from anyio.abc import TaskGroup, TaskStatus

from dispatcher.core.events import Observer, Started, Stopped, Stopping, fan_out
from dispatcher.core.findings.condition import Condition
from dispatcher.core.process_state import WorkerReport
from dispatcher.infra import early_stop
from dispatcher.service.context import Context
from dispatcher.service.engine import Engine
from dispatcher.service.http import Http
from dispatcher.service.order import Order
from dispatcher.service.policies import entry_formats, slots
from dispatcher.service.process import run_to_the_end
from dispatcher.service.sessions import Sessions
from dispatcher.service.start_upkeep import run_gauges, start_upkeep
from dispatcher.settings import Settings
from dispatcher.sidecar import readiness as probes
from dispatcher.stages.doorbell.wake import Doorbell
from dispatcher.telemetry import logs, merge, metrics, traces
from dispatcher.telemetry.state import StateTracker
from dispatcher.upkeep.pause import PauseWatcher
from dispatcher.upkeep.registry import Registry
from dispatcher.upkeep.slot_keeper import SlotKeeper
from dispatcher.upkeep.standing_layout import StandingLayout
from dispatcher.upkeep.unanswered import watch_unanswered

TWICE = "a second signal"


async def run(settings: Settings, *, observe: Observer | None = None) -> int:
    """Run until SIGTERM or SIGINT; 0 after a clean stop, 1 after one that was forced or ran out of its grace.

    Raises DispatcherError when a person has to act. `observe` hears every event, beside metrics and logs.
    """
    return await run_to_the_end(Service(settings, observe))


class Service:
    """Everything one dispatcher process is made of. `worker`: its name, where a supervisor has the sidecar."""

    def __init__(self, settings: Settings, observe: Observer | None = None, *, worker: str | None = None) -> None:
        self._settings = settings
        self.exit_code = 0  # written by cut_short()
        self._cut_short_by: str | None = None
        self._readiness = probes.Readiness()
        self._metrics = metrics.Metrics(settings.layout.keys)
        self._is_worker = worker is not None
        log = logs.configure(settings.log_level, settings.log_format, worker=worker)
        beside: list[Observer] = [observe] if observe else []
        self._state = StateTracker(self._metrics.latency.snapshot, types=self._metrics.event_types.snapshot)
        self._observe = fan_out(self._readiness.observe, self._metrics, self._state, log, *beside)
        self._stopping = anyio.Event()
        self._forced = anyio.CancelScope()

        s, rng = settings, SystemRandom()
        token = uuid4().hex[:8]  # pod names and process ids come again; a successor must not fence a namesake
        self._name = name = f"{socket.gethostname()}-{os.getpid()}-{token}"
        sessions = Sessions(s, f"{token} {name}", observe=self._observe, rng=rng)  # Postgres keeps 63 bytes of that
        order: Order | None = None
        if s.order != "none" and s.enabled:
            # The registry is made below: nobody asks for the id before a session is open.
            order = Order(s, sessions, dispatcher_id=lambda: self._registry.id, observe=self._observe)
        doorbell = Doorbell(
            sessions.control,
            tick_s=s.tick_ms / 1000,
            slots=slots(s),
            heartbeat_channel=f"outbox_ping_{uuid4().hex}",
            observe=self._observe,
            owners=order.bell if order else None,
        )
        self._sessions = sessions
        self._registry = Registry(name, sessions.control)
        used = s.enabled and (s.unrouted == "stream" or s.order != "none")
        handlers = s.enabled and bool(s.handlers)
        layout = StandingLayout(s.layout, name, self._observe, used=used, handlers=handlers)
        self._order = order
        self._keeper: SlotKeeper | None = order.join(self._registry, layout) if order else None
        self._pause = self._make_pause(doorbell, layout)
        doorbell.listener.on_control(self._pause.read_soon)
        self._state.changed = self._pause.read_soon
        self._traces = traces.start(entry_formats(s), self._observe) if s.otel and s.enabled else None
        self._context = Context(
            s,
            name,
            sessions,
            doorbell,
            self._registry,
            self._pause,
            layout,
            self._observe,
            rng,
            stream_slots=order.stream_slots if order else None,
            handler_slots=order.handler_slots if order else None,
            make_spans=self._traces,
        )
        self._engine = Engine(self._context)
        self._released = 0  # written by _work()

    def _make_pause(self, doorbell: Doorbell, layout: StandingLayout) -> PauseWatcher:
        sessions = self._sessions

        def changed() -> None:
            doorbell.nudge()
            if self._keeper is not None:  # under another layout than ours we own no slot
                self._keeper.check_soon()

        return PauseWatcher(
            self._name,
            [*sessions.claiming, sessions.upkeep, sessions.chores],
            control=sessions.control,
            tick_s=self._settings.tick_ms / 1000,
            changed=changed,
            layout=layout,
            observe=self._observe,
            condition=self._condition,
            figures=lambda: {"sent": self._state.sent()},
        )

    def report(self) -> WorkerReport:
        """What a supervisor has to know."""
        return WorkerReport(self._readiness(), self._state.read(), merge.families(self._metrics.registry))

    def _condition(self) -> str:
        """What others are told of us in Postgres."""
        s = self._settings
        said = Condition(
            s.stream_name if self._engine.stream else None,
            s.stream_maxlen,
            s.max_attempts,
            s.backpressure_except,
            tick_s=s.tick_ms / 1000,
        )
        state = self._state
        return said.with_troubles(state.troubles, state.past, state.known_groups, state.ended)

    @property
    def not_ready(self) -> str | None:
        """The reason not to be ready, or None."""
        return self._readiness()

    def nudge(self) -> None:
        """Rows were put back, perhaps by another process: look for them now."""
        self._engine.rows_released()

    def stop(self, reason: str) -> None:
        """Begin the stop: nothing new is taken. Idempotent."""
        if not self._stopping.is_set():
            self._observe(Stopping(reason))
            self._stopping.set()
            self._engine.stop()
            if self._keeper is not None:
                self._keeper.stop()

    async def watch_signals(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """SIGTERM, SIGINT, SIGHUP, SIGQUIT stop, a second one forces; one after a stop of ours is no second one.

        Nor is any to a worker: systemd stops all processes of a unit, and the supervisor stops its workers once more.
        """
        with anyio.open_signal_receiver(*early_stop.stop_signals()) as signals:
            task_status.started()
            heard = False
            async for number in signals:
                if heard and not self._is_worker:
                    self.cut_short(TWICE)
                heard = True
                self.stop(signal.Signals(number).name)

    async def run(self) -> None:
        """Open everything, relay until stopped, close everything."""
        with self._forced:
            async with anyio.create_task_group() as beside:
                try:
                    await self._open(beside)
                    s, handlers = self._settings, self._engine.event_types
                    self._observe(Started(self._name, s.enabled, s.stream_maxlen, handlers))
                    await self._work()
                finally:
                    beside.cancel_scope.cancel()
        self._engine.close()
        if self._traces is not None and not self.exit_code:
            await self._traces.close()
        self._observe(Stopped(self._released, self._cut_short_by))

    def cut_short(self, why: str) -> None:
        """End at once. Sessions too: a statement in flight is shielded, and only the end of its session ends it."""
        self.exit_code = 1
        self._cut_short_by = self._cut_short_by or why
        self._forced.cancel()

    async def _open(self, beside: TaskGroup) -> None:
        s = self._settings
        if s.http_enabled:
            http = Http(
                s,
                readiness=self._readiness,
                metrics_registry=self._metrics.registry,
                api=self._sessions.api,
                retried=self._engine.rows_released,
                observe=self._observe,
                state=self._state.read,
            )
            await http.open(beside)
        sessions = [self._sessions.chores]
        if s.enabled:
            sessions += [self._sessions.control, self._sessions.upkeep]
            sessions += self._sessions.lanes if self._engine.stream else []
            sessions += [self._sessions.handlers] if self._engine.handlers else []
        async with anyio.create_task_group() as opening:
            opening.start_soon(self._give_up_opening, opening.cancel_scope)
            async with anyio.create_task_group() as first_tries:
                for postgres in sessions:
                    first_tries.start_soon(beside.start, postgres.keep)
            opening.cancel_scope.cancel()
        if s.enabled:
            start_upkeep(beside, self._context, self._engine, self._order, self._keeper)
        beside.start_soon(watch_unanswered, self._sessions.everything, name="unanswered statements")
        beside.start_soon(self._pause.run, self._engine.unfinished if s.enabled else None, name="pause")
        beside.start_soon(run_gauges, self._context, self._engine, name="gauges")

    async def _give_up_opening(self, scope: anyio.CancelScope) -> None:
        await self._stopping.wait()
        scope.cancel()

    async def _work(self) -> None:
        """Relay until stopped, then give what is in flight its grace."""
        if not self._settings.enabled:
            await self._stopping.wait()
            return
        async with anyio.create_task_group() as working:

            async def deadline() -> None:
                await self._stopping.wait()
                await anyio.sleep(self._settings.shutdown_grace_ms / 1000)
                self.cut_short("the grace is over")

            working.start_soon(deadline, name="grace")
            self._released = await self._engine.run()
            if self._keeper is not None:
                await self._keeper.leave()
            # Within the grace too: in a network that swallows everything each waits for its statement's timeout.
            await self._pause.deregister()
            await self._registry.deregister()
            working.cancel_scope.cancel()
