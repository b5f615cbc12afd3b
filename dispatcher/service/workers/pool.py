"""The workers as the supervisor sees them: who is there, what each said last, and what those who ended had counted."""

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dispatcher.core.latencies import Latencies
from dispatcher.core.process_state import ProcessState, Trouble, merged
from dispatcher.core.snapshot import Family, WorkerReport
from dispatcher.service.workers import boot
from dispatcher.service.workers.channel import receive_report
from dispatcher.telemetry.latency import EDGES

BOOT = str(Path(boot.__file__).resolve())
SILENT_S = 10.0  # so long without a word, and it is not ready


@dataclass(eq=False, slots=True)
class Worker:
    """One worker process. `snapshot` and `heard_at` are written by the task that keeps it."""

    name: str
    process: asyncio.subprocess.Process
    writer: asyncio.StreamWriter
    reader: asyncio.StreamReader
    started_at: float  # Unix seconds
    snapshot: WorkerReport | None = None
    heard_at: float | None = None  # monotonic seconds

    async def hear(self) -> WorkerReport | None:
        """What it says next, which is kept; None when it is gone."""
        snapshot = await receive_report(self.reader)
        if snapshot is not None:
            self.snapshot, self.heard_at = snapshot, time.monotonic()
        return snapshot

    def tell(self, word: str) -> None:
        """Say something to it; one that is gone does not hear it."""
        if not self.writer.is_closing():
            self.writer.write(json.dumps(word).encode() + b"\n")

    @property
    def opened(self) -> bool:
        """Whether it has opened everything that could be opened: no setting of it is wrong."""
        troubles = self.snapshot.reading.troubles if self.snapshot else ()
        return self.snapshot is not None and all(trouble.kind != "starting" for trouble in troubles)

    def not_ready(self) -> str | None:
        """Its reason not to be ready, or None."""
        if self.snapshot is None or self.heard_at is None:
            return "starting"
        return "does not answer" if time.monotonic() - self.heard_at > SILENT_S else self.snapshot.not_ready


async def start_worker(number: int, flags: Mapping[str, object]) -> Worker:
    """Start one. Raises OSError."""
    ours, theirs = socket.socketpair()
    name = f"worker-{number:02d}"
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", BOOT, name, str(os.getpid()), str(theirs.fileno())),
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
    writer.write(json.dumps(dict(flags)).encode() + b"\n")
    return Worker(f"{name}-pid{process.pid}", process, writer, reader, time.time())


class WorkerPool:
    """Written by the supervisor's tasks, all on one event loop."""

    def __init__(self, wanted: int) -> None:
        self._began = time.time()
        self.workers: list[Worker | None] = [None] * wanted
        nothing = Latencies(EDGES, (0,) * (len(EDGES) + 1), 0.0)
        self._ended = ProcessState((), self._began, nothing, processes=0)

    @property
    def running(self) -> list[Worker]:
        """Those who are there."""
        return [worker for worker in self.workers if worker is not None]

    def retire(self, worker: Worker) -> None:
        """It ended: what it had counted stays."""
        if worker.snapshot is not None:
            sum_ = merged([self._ended, worker.snapshot.reading])
            self._ended = replace(sum_, names=(), troubles=(), sample=None, survey=None, processes=0)

    def reading(self) -> ProcessState:
        """All as one, for the console."""
        heard = [worker.snapshot.reading for worker in self.running if worker.snapshot is not None]
        missing = len(self.workers) - len(heard)
        own = self._ended
        if missing:
            own = replace(own, troubles=(Trouble("starting", f"{missing} workers", self._began, missing),))
        return merged([own, *heard])

    def families(self) -> Sequence[tuple[Family, ...]]:
        """The metrics of each."""
        return [worker.snapshot.families for worker in self.running if worker.snapshot is not None]

    def not_ready(self) -> str | None:
        """The reason not to be ready, of the first that has one; None when all are."""
        reasons: dict[str, str] = {}
        for number, worker in enumerate(self.workers):
            reason = "starting" if worker is None else worker.not_ready()
            if reason is not None:
                reasons[f"worker-{number:02d}" if worker is None else worker.name] = reason
        if len(reasons) == len(self.workers) and len(set(reasons.values())) == 1:
            return next(iter(reasons.values()))
        return next((f"{name}: {reason}" for name, reason in reasons.items()), None)

    def tell(self, word: str) -> None:
        """Say something to all."""
        for worker in self.running:
            worker.tell(word)
