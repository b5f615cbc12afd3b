"""A child process that never outlives us: a server, or the dispatcher of the demo.

It dies with us, even when we are killed (see launch.py), and it has a session of its own, so that Ctrl-C in a terminal
reaches only us and we stop the children in our own order.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue

from dispatcher.embedded import launch
from dispatcher.embedded.folders import User

_POLL_S = 0.01
_HAS_PROC = Path("/proc/self/stat").exists()  # Linux; elsewhere ps knows


class Child:
    """A running child. Its output goes to the end of `log`. `death_signal`: sent to it when we die.

    `environment`: all its variables. `keep`: descriptors that it inherits.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        user: User,
        death_signal: int,
        log: Path,
        environment: Mapping[str, str],
        keep: Sequence[int] = (),
        folder: Path = Path("/"),
    ) -> None:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._log, self._log_start = log, os.fstat(descriptor).st_size
            shim = [sys.executable, "-I", "-S", str(Path(launch.__file__).resolve())]
            tie = [str(os.getpid()), str(int(death_signal)), str(user.uid), str(user.gid)]
            self._process = _in_keeper_thread(
                lambda: subprocess.Popen(
                    [*shim, *tie, *command],
                    stdin=subprocess.DEVNULL,
                    stdout=descriptor,
                    stderr=descriptor,
                    cwd=folder,
                    env=environment,
                    pass_fds=keep,
                    start_new_session=True,
                )
            )
        finally:
            os.close(descriptor)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, minus the signal that killed it, or None while it runs."""
        return self._process.poll()

    def signal(self, number: int) -> None:
        """Send a signal; one that has ended is left alone."""
        self._process.send_signal(number)

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end. False when it still runs after `timeout_s` seconds."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """Kill it and its own children at once, as a power cut would, and wait until all are gone."""
        if self.returncode is not None:
            return
        self.signal(signal.SIGSTOP)  # so that it starts no further child while we look
        family = children_of(self.pid)
        self.signal(signal.SIGKILL)
        for pid in family:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait()
        while any(map(_alive, family)):
            time.sleep(_POLL_S)

    def end(self) -> int:
        """Wait for its end, however long that takes. Returns its exit code."""
        return self._process.wait()

    def wrote(self, words: str) -> bool:
        """Whether its output since it started has these words."""
        with self._log.open("rb") as file:
            file.seek(self._log_start)
            return words.encode() in file.read()

    def last_lines(self, count: int) -> list[str]:
        """The last lines that it wrote since it started, without empty ones."""
        last: deque[str] = deque(maxlen=count)
        with self._log.open("rb") as file:
            file.seek(self._log_start)
            last.extend(line for raw in file if (line := raw.decode(errors="replace").strip()))
        return list(last)

    def last_words(self) -> str:
        """The last four lines, as one."""
        return " | ".join(self.last_lines(4))


def children_of(pid: int) -> list[int]:
    """The process ids of the living children of a process."""
    if _HAS_PROC:
        found = [(int(path.name), _stat(int(path.name))) for path in Path("/proc").iterdir() if path.name.isdigit()]
        return [child for child, (state, parent) in found if parent == pid and state not in "ZX"]
    listing = subprocess.run(
        ["/bin/ps", "-ax", "-o", "pid=", "-o", "ppid="], capture_output=True, text=True, check=True
    )
    pairs = [line.split() for line in listing.stdout.splitlines()]
    return [int(child) for child, parent in pairs if int(parent) == pid]


def _alive(pid: int) -> bool:
    if _HAS_PROC:
        return _stat(pid)[0] not in "ZX"  # an orphan may stay a zombie for ever where nobody reaps
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _stat(pid: int) -> tuple[str, int]:
    """State letter and parent of a process; ("X", 0) when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return "X", 0
    state, parent = text.rpartition(")")[2].split()[:2]
    return state, int(parent)


# --- The keeper: the kernel ends a child with the *thread* that started it, so all are started by one that never ends.

_Start = Callable[[], "subprocess.Popen[bytes]"]
_orders: SimpleQueue[tuple[_Start, "SimpleQueue[subprocess.Popen[bytes] | Exception]"]] = SimpleQueue()
_keeper: threading.Thread | None = None
_keeper_lock = threading.Lock()


def _in_keeper_thread(start: _Start) -> "subprocess.Popen[bytes]":
    global _keeper
    with _keeper_lock:
        if _keeper is None or not _keeper.is_alive():  # not alive: we are a fork of the process that had one
            _keeper = threading.Thread(target=_keep, name="dispatcher-embedded", daemon=True)
            _keeper.start()
    answer: SimpleQueue[subprocess.Popen[bytes] | Exception] = SimpleQueue()
    _orders.put((start, answer))
    result = answer.get()
    if isinstance(result, Exception):
        raise result
    return result


def _keep() -> None:
    while True:
        start, answer = _orders.get()
        try:
            answer.put(start())
        except Exception as error:
            answer.put(error)
