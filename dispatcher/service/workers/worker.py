"""A worker: a whole dispatcher without a sidecar, which reports to its supervisor and does not outlive it.

When the supervisor is gone, however it went, the socket to it ends. A thread waits for that from the first moment on:
while the settings and the handlers' module are loaded it ends the process at once, later it stops the dispatcher as
SIGTERM does, and ends the process when the event loop is blocked and does not obey.
"""

import asyncio
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import NoReturn, TextIO

import anyio

from dispatcher.core.errors import DispatcherError
from dispatcher.infra import early_stop
from dispatcher.infra.forks import not_for_children
from dispatcher.infra.output import last_words, never_wait_for_output
from dispatcher.service.lifecycle import TWICE, Service
from dispatcher.service.process import LOOP_OPTIONS, freeze, leave_if_held_up, one_error, run_to_the_end
from dispatcher.service.workers.channel import CUT_SHORT, pack_report
from dispatcher.settings import Settings

REPORT_EVERY_S = 1.0
READY_LOOK_S = 0.1  # between two looks whether it became ready, or ceased to be: that is reported at once
MARGIN_S = 5.0  # after the grace, until a worker without a supervisor ends its process
GONE = "the supervisor is gone"


def main(name: str, descriptor: int) -> NoReturn:
    """Never returns. `descriptor`: our end of the socket, on which the flags come first."""
    never_wait_for_output()
    end = socket.socket(fileno=descriptor)
    end.set_inheritable(False)  # a process that a handler starts must not keep the socket open
    not_for_children(end, lambda ours: [ours.fileno()])
    lines = end.makefile("r", encoding="utf-8")
    flags = lines.readline()
    if not flags:
        sys.exit(f"{name}: {GONE}")
    supervisor = _SupervisorLink(lines)
    try:
        settings = replace(Settings.load(os.environ, json.loads(flags)), http_enabled=False)
        ours = f"{name}-pid{os.getpid()}"
        sys.exit(anyio.run(_serve, ours, settings, end, supervisor, backend_options=LOOP_OPTIONS))
    except DispatcherError as error:
        print(f"dispatcher: {error}", file=sys.stderr, flush=True)  # noqa: T201 -- as the command line does
        sys.exit(error.exit_code)


async def _serve(name: str, settings: Settings, end: socket.socket, supervisor: "_SupervisorLink") -> int:
    freeze()
    service = Service(settings, worker=name)
    supervisor.serve(service, asyncio.get_running_loop(), settings.shutdown_grace_ms / 1000 + MARGIN_S)
    sender = _ReportSender(end)
    with one_error():  # or what a person has to mend would end the worker with a traceback, to be started again
        async with anyio.create_task_group() as beside:
            beside.start_soon(_report, service, sender, name="reports")
            try:
                code = await run_to_the_end(service)
                early_stop.ignore()
            finally:
                beside.cancel_scope.cancel()
    sender.send(pack_report(service.report()))
    sender.finish()
    leave_if_held_up(code)
    return code


async def _report(service: Service, sender: "_ReportSender") -> None:
    """Report each second, and at once when the worker becomes ready or ceases to be."""
    reported: str | None = ""
    at = 0.0
    while True:
        if service.not_ready != reported or time.monotonic() - at >= REPORT_EVERY_S:
            reported, at = service.not_ready, time.monotonic()
            sender.send(pack_report(service.report()))
        await anyio.sleep(READY_LOOK_S)


class _SupervisorLink:
    """Reads what the supervisor sends, in a thread: a blocked event loop, or a module that loads, cannot keep it."""

    def __init__(self, lines: TextIO) -> None:
        self._lines = lines
        self._served: tuple[Service, Callable[..., object], float] | None = None
        threading.Thread(target=self._run, name="supervisor", daemon=True).start()

    def serve(self, service: Service, loop: asyncio.AbstractEventLoop, patience_s: float) -> None:
        """From now on nudge and stop this service. `patience_s`: what it gets to stop before the process is ended."""
        self._served = service, loop.call_soon_threadsafe, patience_s

    def _run(self) -> None:
        with suppress(OSError, RuntimeError):  # RuntimeError: the loop is closed, the process ends anyway
            for line in self._lines:
                if self._served is not None:  # before, it has not looked for rows yet
                    service, call, _ = self._served
                    if line.encode() == CUT_SHORT:
                        call(service.cut_short, TWICE)
                    else:
                        call(service.nudge)
        if self._served is not None:
            service, call, patience_s = self._served
            with suppress(RuntimeError):
                call(service.stop, GONE)
            time.sleep(patience_s)
        last_words()
        os._exit(1)


class _ReportSender:
    """Sends from a thread, so that a supervisor that does not read holds up nothing. Only the newest report counts."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._newest: bytes | None = None
        self._more = threading.Condition()
        self._finished = False
        self._thread = threading.Thread(target=self._run, name="reports", daemon=True)
        self._thread.start()

    def send(self, report: bytes) -> None:
        with self._more:
            self._newest = report
            self._more.notify()

    def finish(self) -> None:
        """Wait up to a second until the last report is sent."""
        with self._more:
            self._finished = True
            self._more.notify()
        self._thread.join(1.0)

    def _run(self) -> None:
        while True:
            with self._more:
                while self._newest is None and not self._finished:
                    self._more.wait()
                report, self._newest = self._newest, None
            if report is None:
                return
            try:
                self._end.sendall(report)
            except OSError:
                return  # the supervisor is gone
