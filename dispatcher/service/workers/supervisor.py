"""The supervisor: starts the workers, replaces one that ended, serves HTTP for all, stops all together.

It takes no row itself. The others are started once the first worker is up, so that a wrong setting is reported once.
"""

import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from random import SystemRandom
from time import monotonic

import anyio
from anyio.abc import TaskGroup, TaskStatus

from dispatcher.core.backoff import Backoff
from dispatcher.core.errors import Misconfigured
from dispatcher.core.events import (
    Observer,
    Stopped,
    Stopping,
    WorkerEnded,
    WorkerStarted,
    WorkerStuck,
    fan_out,
)
from dispatcher.infra import early_stop
from dispatcher.infra.postgres.lazy import LazySession
from dispatcher.service.http import Http
from dispatcher.service.process import run_to_the_end
from dispatcher.service.targets import PostgresTargets
from dispatcher.service.workers.pool import Worker, WorkerPool, start_worker
from dispatcher.settings import Settings
from dispatcher.telemetry import logs, metrics
from dispatcher.telemetry.merge import MergedMetrics

RESTART = Backoff(base_s=0.25, cap_s=30.0)


@dataclass(frozen=True, slots=True)
class SupervisorTiming:
    """In seconds."""

    # A worker that lived so long is replaced as after a first failure.
    steady: float = 30.0
    first_up: float = 5.0  # the longest that the others wait for the first
    stuck: float = 30.0  # a worker silent for so long is killed
    own_lag: float = 5.0  # when the supervisor itself stood still for so long, it judges no worker
    after_grace: float = 5.0  # then what still runs is killed
    last_report: float = 1.0  # a process that a handler forked may keep the socket open


TIMING = SupervisorTiming()


async def supervise(settings: Settings, flags: Mapping[str, object]) -> int:
    """Run until SIGTERM or SIGINT; the worst exit code of the workers.

    `flags`: those of the command line, which the workers read again beside their environment. Raises Misconfigured.
    """
    return await run_to_the_end(Supervisor(settings, flags))


class Supervisor:
    """Keeps the workers of one host. `start`: starts one, by its number, with the flags."""

    def __init__(
        self,
        settings: Settings,
        flags: Mapping[str, object],
        observe: Observer | None = None,
        *,
        timing: SupervisorTiming = TIMING,
        start: Callable[[int, Mapping[str, object]], Awaitable[Worker]] = start_worker,
    ) -> None:
        self._timing = timing
        self._start = start
        self._settings = settings
        self._flags = flags
        self.exit_code = 0  # written by the tasks that keep workers
        self._pool = WorkerPool(settings.processes)
        own = metrics.Metrics(settings.layout.keys)
        self._metrics = MergedMetrics(own, self._pool.families)
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
        """SIGTERM, SIGINT, SIGHUP or SIGQUIT stops; a second one forces the workers."""
        with anyio.open_signal_receiver(*early_stop.stop_signals()) as signals:
            task_status.started()
            async for number in signals:
                if self._stopping.is_set():
                    self._pool.cut_short()
                self.stop(signal.Signals(number).name)

    async def run(self) -> None:
        async with anyio.create_task_group() as beside:
            await self._open(beside)
            beside.start_soon(self._watch, name="watch workers")
            beside.start_soon(self._end_in_time, name="grace")
            async with anyio.create_task_group() as workers:
                for number in range(self._settings.processes):
                    workers.start_soon(self._keep, number, name=f"worker {number}")
                    if number == 0:
                        with anyio.move_on_after(self._timing.first_up):
                            await self._first_is_up.wait()
            beside.cancel_scope.cancel()
        self._observe(Stopped(0))

    async def _open(self, beside: TaskGroup) -> None:
        s = self._settings
        if not s.http_enabled:
            return
        targets = PostgresTargets(s, f"supervisor-{os.getpid()}")
        http = Http(
            s,
            readiness=self._not_ready,
            metrics_registry=self._metrics.registry,
            api=LazySession(targets.api, prepare=targets.check),
            retried=self._pool.nudge,
            observe=self._observe,
            state=self._pool.state,
        )
        await http.open(beside)

    def _not_ready(self) -> str | None:
        return "stopping" if self._stopping.is_set() else self._pool.not_ready()

    async def _keep(self, number: int) -> None:
        """Start a worker, and another whenever it ends."""
        failures = 0
        while not self._stopping.is_set():
            began = monotonic()
            try:
                code, name = await self._once(number)
            except OSError as error:  # the workers that run must not end of it
                if not self._first_is_up.is_set():
                    raise
                code, name = os.EX_OSERR, f"worker-{number:02d} (could not be started: {error.strerror})"
            if self._stopping.is_set():
                self.exit_code = max(self.exit_code, abs(code) and 1)
                return
            if code == Misconfigured.exit_code and not self._first_is_up.is_set():
                self.exit_code = code  # the worker has said why
                self.stop("a setting is wrong")
                return
            failures = 1 if monotonic() - began > self._timing.steady else failures + 1
            again_in_s = RESTART.reconnect_delay(failures, self._rng)
            self._observe(WorkerEnded(name, code, len(self._pool.running), again_in_s))
            with anyio.move_on_after(again_in_s):
                await self._stopping.wait()

    async def _once(self, number: int) -> tuple[int, str]:
        """One worker from its start to its end; its exit code and its name."""
        worker = await self._start(number, self._flags)
        self._pool.workers[number] = worker
        self._observe(WorkerStarted(worker.name, len(self._pool.running)))
        if self._stopping.is_set():
            worker.process.terminate()
        try:
            async with anyio.create_task_group() as receiving:
                receiving.start_soon(self._receive, worker, name=f"reports of {worker.name}")
                code = await worker.process.wait()
                receiving.cancel_scope.deadline = anyio.current_time() + self._timing.last_report
        finally:
            self._pool.workers[number] = None
            self._pool.retire(worker)
            if worker.report is not None:
                self._metrics.retire(worker.report.families)
            worker.writer.close()
        if self._stopping.is_set():
            if code == -signal.SIGTERM and worker.report is None:
                code = 0  # our signal came before its Python had begun: nothing was left undone
            self._observe(WorkerEnded(worker.name, code, len(self._pool.running), None))
        return code, worker.name

    async def _receive(self, worker: Worker) -> None:
        while await worker.receive():
            if worker.opened:
                self._first_is_up.set()

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._pool.running:
            if worker.process.returncode is None:
                worker.process.send_signal(number)

    async def _end_in_time(self) -> None:
        """Kill what is left after the grace."""
        await self._stopping.wait()
        await anyio.sleep(self._settings.shutdown_grace_ms / 1000 + self._timing.after_grace)
        self._signal(signal.SIGKILL)

    async def _watch(self) -> None:
        """Kill a worker that reported and does so no more: a handler blocks its loop, or the process is frozen."""
        last = monotonic()
        while not self._stopping.is_set():
            await anyio.sleep(1.0)
            now = monotonic()
            lag, last = now - last, now
            for worker in self._pool.running:
                if lag > self._timing.own_lag and worker.reported_at is not None:
                    worker.reported_at = now  # we were frozen ourselves: the reports of meanwhile are not read yet
                silent_s = now - worker.reported_at if worker.reported_at is not None else 0.0
                if silent_s > self._timing.stuck:
                    self._observe(WorkerStuck(worker.name, silent_s))
                    worker.process.kill()
