"""The supervisor: starts the workers, starts one again that ended, has the one sidecar for all, stops all together.

It takes no row itself. The first worker is waited for before the others are started, so that what is set up wrongly is
said once.
"""

import os
import signal
from collections.abc import Mapping
from random import SystemRandom
from time import monotonic

import anyio
from anyio.abc import TaskGroup, TaskStatus

from dispatcher.core.backoff import Backoff
from dispatcher.core.events import (
    Observer,
    SidecarUp,
    Stopped,
    Stopping,
    WorkerEnded,
    WorkerStarted,
    WorkerStuck,
    fan_out,
)
from dispatcher.infra.postgres.lazy import LazySession
from dispatcher.service.console_routes import ConsoleRoutes
from dispatcher.service.http import build_http
from dispatcher.service.process import one_error
from dispatcher.service.targets import PostgresTargets
from dispatcher.service.workers.pool import Worker, WorkerPool, start_worker
from dispatcher.settings import Settings
from dispatcher.sidecar import app
from dispatcher.telemetry import logs, metrics
from dispatcher.telemetry.merge import MergedMetrics

RESTART = Backoff(base_s=0.25, cap_s=30.0)
STEADY_S = 30.0  # who lived that long is started again as after a first failure
FIRST_S = 5.0  # that the others wait for the first
STUCK_S = 30.0
OWN_LAG_S = 5.0
MARGIN_S = 5.0  # after the grace
LAST_WORD_S = 1.0  # what a handler forked may keep the socket open
MISCONFIGURED = 2


async def supervise(settings: Settings, flags: Mapping[str, object], *, observe: Observer | None = None) -> int:
    """Run until SIGTERM or SIGINT; the worst exit code of the workers.

    `flags`: those of the command line, which the workers read again beside their environment. Raises Misconfigured.
    """
    supervisor = Supervisor(settings, flags, observe)
    with one_error():
        async with anyio.create_task_group() as everything:
            await everything.start(supervisor.watch_signals)
            try:
                await supervisor.run()
            finally:
                everything.cancel_scope.cancel()
    return supervisor.exit_code


class Supervisor:
    """Of one host's workers."""

    def __init__(self, settings: Settings, flags: Mapping[str, object], observe: Observer | None = None) -> None:
        self._settings = settings
        self._flags = flags
        self.exit_code = 0  # written by the tasks that keep workers
        self._staff = WorkerPool(settings.processes)
        own = metrics.Metrics()
        self._metrics = MergedMetrics(own.registry, self._staff.families)
        log = logs.configure(settings.log_level, settings.log_format, worker=f"supervisor-pid{os.getpid()}")
        self._observe = fan_out(own, log, *([observe] if observe else []))
        self._stopping = anyio.Event()
        self._first_is_up = anyio.Event()
        self._rng = SystemRandom()

    def stop(self, reason: str) -> None:
        """Begin the stop of all. Idempotent."""
        if not self._stopping.is_set():
            self._observe(Stopping(reason))
            self._stopping.set()
            self._first_is_up.set()
            self._signal(signal.SIGTERM)

    async def watch_signals(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """SIGTERM or SIGINT stops; a second one forces the workers."""
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for number in signals:
                if self._stopping.is_set():
                    self._signal(signal.SIGTERM)
                self.stop(signal.Signals(number).name)

    async def run(self) -> None:
        """Keep all workers until stopped."""
        async with anyio.create_task_group() as beside:
            await self._open(beside)
            beside.start_soon(self._watch, name="watch workers")
            beside.start_soon(self._end_in_time, name="grace")
            async with anyio.create_task_group() as workers:
                for number in range(self._settings.processes):
                    workers.start_soon(self._keep, number, name=f"worker {number}")
                    if number == 0:
                        with anyio.move_on_after(FIRST_S):
                            await self._first_is_up.wait()
            beside.cancel_scope.cancel()
        self._observe(Stopped(0))

    async def _open(self, beside: TaskGroup) -> None:
        s = self._settings
        if not s.http_enabled:
            return
        reach = PostgresTargets(s, f"supervisor-{os.getpid()}")
        asked = LazySession(reach.asking, "api", prepare=reach.check)
        drawn = ConsoleRoutes(s, self._staff.reading, lambda: self._staff.tell("look"))
        served = build_http(
            s,
            readiness=self._not_ready,
            registry=self._metrics.registry,
            ask=asked.fetch,
            retried=lambda: self._staff.tell("freed"),
            observe=self._observe,
            rooms=drawn.routes,
        )
        port = await beside.start(app.serve, served, s.http_host, s.http_port, name="sidecar")
        self._observe(SidecarUp(s.http_host, port))
        beside.start_soon(asked.run, name="what people ask")
        beside.start_soon(drawn.history.run, name="history")

    def _not_ready(self) -> str | None:
        return "stopping" if self._stopping.is_set() else self._staff.not_ready()

    async def _keep(self, number: int) -> None:
        """Start a worker, and another whenever it ends."""
        failures = 0
        while not self._stopping.is_set():
            began = monotonic()
            try:
                code, name = await self._once(number)
            except OSError as error:  # no memory, no process, no descriptor is left: those that run must not end of it
                if not self._first_is_up.is_set():
                    raise
                code, name = os.EX_OSERR, f"worker-{number:02d} (could not be started: {error.strerror})"
            if self._stopping.is_set():
                self.exit_code = max(self.exit_code, abs(code) and 1)
                return
            if code == MISCONFIGURED and not self._first_is_up.is_set():
                self.exit_code = code  # the worker has said why
                self.stop("a setting is wrong")
                return
            failures = 1 if monotonic() - began > STEADY_S else failures + 1
            again_in_s = RESTART.reconnect_delay(failures, self._rng)
            self._observe(WorkerEnded(name, code, len(self._staff.running), again_in_s))
            with anyio.move_on_after(again_in_s):
                await self._stopping.wait()

    async def _once(self, number: int) -> tuple[int, str]:
        """One worker from its start to its end; its exit code and its name."""
        worker = await start_worker(number, self._flags)
        self._staff.workers[number] = worker
        self._observe(WorkerStarted(worker.name, len(self._staff.running)))
        if self._stopping.is_set():
            worker.process.terminate()
        try:
            async with anyio.create_task_group() as listening:
                listening.start_soon(self._listen, worker, name=f"listen to {worker.name}")
                code = await worker.process.wait()
                listening.cancel_scope.deadline = anyio.current_time() + LAST_WORD_S
        finally:
            self._staff.workers[number] = None
            self._staff.retire(worker)
            if worker.snapshot is not None:
                self._metrics.retire(worker.snapshot.families)
            worker.writer.close()
        if self._stopping.is_set():
            self._observe(WorkerEnded(worker.name, code, len(self._staff.running), None))
        return code, worker.name

    async def _listen(self, worker: Worker) -> None:
        while await worker.hear() is not None:
            if worker.opened:
                self._first_is_up.set()

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._staff.running:
            if worker.process.returncode is None:
                worker.process.send_signal(number)

    async def _end_in_time(self) -> None:
        """Kill what is left after the grace."""
        await self._stopping.wait()
        await anyio.sleep(self._settings.shutdown_grace_ms / 1000 + MARGIN_S)
        self._signal(signal.SIGKILL)

    async def _watch(self) -> None:
        """Kill a worker that has spoken and speaks no more: a handler that blocks its loop, or a frozen process."""
        last = monotonic()
        while not self._stopping.is_set():
            await anyio.sleep(1.0)
            now = monotonic()
            lag, last = now - last, now
            for worker in self._staff.running:
                if lag > OWN_LAG_S and worker.heard_at is not None:
                    worker.heard_at = now  # we were frozen ourselves: what was said meanwhile is not read yet
                silent_s = now - worker.heard_at if worker.heard_at is not None else 0.0
                if silent_s > STUCK_S:
                    self._observe(WorkerStuck(worker.name, silent_s))
                    worker.process.kill()
