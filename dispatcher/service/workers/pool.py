"""The workers as the supervisor sees them: the last report of each, and the counts of those that ended."""

import asyncio
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dispatcher.core.counted import counted
from dispatcher.core.latencies import Latencies
from dispatcher.core.process_state import MetricFamily, ProcessState, Trouble, WorkerReport, merged
from dispatcher.service.workers import boot
from dispatcher.service.workers.channel import CUT_SHORT, NUDGE, pack_flags, receive_report
from dispatcher.telemetry.latency import EDGES

BOOT = str(Path(boot.__file__).resolve())
SILENT_S = 10.0  # a worker that has not reported for so long is not ready


@dataclass(eq=False, slots=True)
class Worker:
    """One worker process. `report` and `reported_at` are written by the task that keeps it."""

    name: str
    process: asyncio.subprocess.Process
    writer: asyncio.StreamWriter
    reader: asyncio.StreamReader
    started_at: float  # Unix seconds
    report: WorkerReport | None = None
    reported_at: float | None = None  # monotonic seconds

    async def receive(self) -> bool:
        """Wait for its next report and keep it; False: the worker is gone."""
        report = await receive_report(self.reader)
        if report is not None:
            self.report, self.reported_at = report, time.monotonic()
        return report is not None

    @property
    def opened(self) -> bool:
        """Whether it has opened everything that could be opened: no setting of it is wrong."""
        if self.report is None or self.report.not_ready == "starting":  # it has begun, and has not read the layout yet
            return False
        return all(trouble.kind != "starting" for trouble in self.report.state.troubles)

    @property
    def silent(self) -> bool:
        """Whether its last report is too old to be believed."""
        return self.reported_at is not None and time.monotonic() - self.reported_at > SILENT_S

    def not_ready(self) -> str | None:
        """Its reason not to be ready, or None."""
        if self.report is None:
            return "starting"
        return "does not answer" if self.silent else self.report.not_ready


async def start_worker(number: int, flags: Mapping[str, object]) -> Worker:
    """Start a worker process. Raises OSError: no memory, no process, no descriptor is left."""
    ours, theirs = socket.socketpair()
    name = f"worker-{number:02d}"
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", BOOT, name, str(theirs.fileno())),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            process_group=0,  # Ctrl-C is for the supervisor, who stops all in order
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    try:
        reader, writer = await asyncio.open_unix_connection(sock=ours)
    except BaseException:
        ours.close()
        process.kill()
        raise
    writer.write(pack_flags(flags))
    return Worker(f"{name}-pid{process.pid}", process, writer, reader, time.time())


class WorkerPool:
    """Written by the supervisor's tasks, all on one event loop."""

    def __init__(self, wanted: int) -> None:
        self._began = time.time()
        self.workers: list[Worker | None] = [None] * wanted
        self._ever_opened = [False] * wanted
        nothing = Latencies(EDGES, (0,) * (len(EDGES) + 1), 0.0)
        self._ended = ProcessState((), self._began, nothing, processes=0)

    @property
    def running(self) -> list[Worker]:
        return [worker for worker in self.workers if worker is not None]

    def retire(self, worker: Worker) -> None:
        """Keep the counts of a worker that ended."""
        if worker.report is not None:
            sum_ = merged([self._ended, worker.report.state])
            self._ended = replace(sum_, names=(), troubles=(), sample=None, processes=0)

    def state(self) -> ProcessState:
        """All as one, for the console."""
        reported = [worker.report.state for worker in self.running if worker.report is not None]
        missing = len(self.workers) - len(reported)
        own = self._ended
        if missing:
            own = replace(own, troubles=(Trouble("starting", counted(missing, "worker"), self._began, missing),))
        return merged([own, *reported])

    def families(self) -> Sequence[tuple[MetricFamily, ...]]:
        """What each counted; the states of those only that have started and answer, while there is one."""
        tells = [worker for worker in self.running if worker.opened and not worker.silent] or self.running
        return [
            tuple(one for one in worker.report.families if worker in tells or one.type != "gauge")
            for worker in self.running
            if worker.report is not None
        ]

    def not_ready(self) -> str | None:
        """The reason not to be ready, of the first that has one; None when all that have started are.

        One that ended is started again, perhaps every few seconds: the others relay all the same.
        """
        reasons: dict[str, str | None] = {}
        for number, worker in enumerate(self.workers):
            if worker is not None and worker.opened:
                self._ever_opened[number] = True
                reasons[worker.name] = worker.not_ready()
            elif not self._ever_opened[number]:
                reasons[f"worker-{number:02d}" if worker is None else worker.name] = "starting"
        if not reasons:
            return "starting"
        if len(reasons) == len(self.workers) and len(set(reasons.values())) == 1:
            return next(iter(reasons.values()))
        return next((f"{name}: {reason}" for name, reason in reasons.items() if reason is not None), None)

    def nudge(self) -> None:
        """Have every worker look for rows now: some were put back."""
        self._tell(NUDGE)

    def cut_short(self) -> None:
        """Have every worker end at once, as after a second signal."""
        self._tell(CUT_SHORT)

    def _tell(self, line: bytes) -> None:
        for worker in self.running:
            if not worker.writer.is_closing():
                worker.writer.write(line)
