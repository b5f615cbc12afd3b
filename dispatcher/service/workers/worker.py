"""A worker: a whole dispatcher without a sidecar, which tells its supervisor about itself and does not outlive it.

When the supervisor is gone, however it went, the socket to it ends, and the worker stops as after SIGTERM; a thread
sees to it that it does, even when the event loop is stuck. On Linux the kernel says so too, once for each thread of the
supervisor that ends: so by SIGHUP, for a second SIGTERM forces.
"""

import asyncio
import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import anyio
from anyio.abc import TaskStatus

from dispatcher.core.errors import DispatcherError
from dispatcher.service.freeze import freeze
from dispatcher.service.leave import leave_if_held_up
from dispatcher.service.lifecycle import Service, run_to_the_end
from dispatcher.service.workers.channel import pack
from dispatcher.settings import Settings

PR_SET_PDEATHSIG = 1
SAY_EVERY_S = 1.0
LOOK_EVERY_S = 0.1  # whether it became ready, or ceased to be
MARGIN_S = 5.0  # after the grace
GONE = "the supervisor is gone"


def main(name: str, supervisor: int, descriptor: int) -> NoReturn:
    """Never returns. `descriptor`: our end of the socket, on which the flags come first."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGHUP), 0, 0, 0)
    if os.getppid() != supervisor:
        sys.exit(f"{name}: the supervisor is gone")
    line = socket.socket(fileno=descriptor)
    line.set_inheritable(False)  # what a handler starts must not keep it open
    words = line.makefile("r", encoding="utf-8")
    try:
        flags = json.loads(words.readline())
        settings = Settings.load(os.environ, flags).model_copy(update={"http_enabled": False})
        sys.exit(anyio.run(_serve, f"{name}-pid{os.getpid()}", settings, line, words))
    except DispatcherError as error:
        print(f"dispatcher: {error}", file=sys.stderr, flush=True)  # noqa: T201 -- as the command line does
        sys.exit(error.exit_code)


async def _serve(name: str, settings: Settings, line: socket.socket, words: Any) -> int:
    freeze()
    service = Service(settings, worker=name)
    speaker = _Speaker(line)
    call = asyncio.get_running_loop().call_soon_threadsafe
    stop = settings.shutdown_grace_ms / 1000 + MARGIN_S
    threading.Thread(target=_listen, args=(words, service, call, stop), name="supervisor's words", daemon=True).start()
    async with anyio.create_task_group() as beside:
        beside.start_soon(_speak, service, speaker, name="snapshots")
        await beside.start(_outlive_nobody, service, name="the kernel's word")
        try:
            code = await run_to_the_end(service)
        finally:
            beside.cancel_scope.cancel()
    speaker.say(pack(service.snapshot()))
    speaker.finish()
    leave_if_held_up(code)
    return code


async def _speak(service: Service, speaker: "_Speaker") -> None:
    """Say what is known each second, and at once when it becomes ready or ceases to be."""
    said: str | None = ""
    at = 0.0
    while True:
        if service.not_ready != said or time.monotonic() - at >= SAY_EVERY_S:
            said, at = service.not_ready, time.monotonic()
            speaker.say(pack(service.snapshot()))
        await anyio.sleep(LOOK_EVERY_S)


async def _outlive_nobody(service: Service, *, task_status: TaskStatus[None]) -> None:
    """Stop when the kernel says that the supervisor is gone; it may say so again."""
    with anyio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            service.stop(GONE)


def _listen(words: Any, service: Service, call: Callable[..., object], patience_s: float) -> None:
    """In a thread: pass on what the supervisor says; when it is gone, stop, and end the process if it does not."""
    try:
        for word in words:
            call(service.told, json.loads(word))
    except (OSError, ValueError):
        pass
    try:
        call(service.stop, GONE)
    except RuntimeError:
        return  # the loop is closed: it ends anyway
    time.sleep(patience_s)
    os._exit(1)


class _Speaker:
    """Sends from a thread, so that a supervisor that does not listen holds up nothing. Only the newest word counts."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._newest: bytes | None = None
        self._more = threading.Condition()
        self._finished = False
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)
        self._thread.start()

    def say(self, word: bytes) -> None:
        """Send this, instead of what was not sent yet."""
        with self._more:
            self._newest = word
            self._more.notify()

    def finish(self) -> None:
        """Wait a moment until the last word is sent."""
        with self._more:
            self._finished = True
            self._more.notify()
        self._thread.join(1.0)

    def _run(self) -> None:
        while True:
            with self._more:
                while self._newest is None and not self._finished:
                    self._more.wait()
                word, self._newest = self._newest, None
            if word is None:
                return
            try:
                self._line.sendall(word)
            except OSError:
                return  # the supervisor is gone
