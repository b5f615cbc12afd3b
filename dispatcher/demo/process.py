"""The dispatcher as a child process: start it, wait until it is ready, see that it lives, stop it."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dispatcher.core.errors import DispatcherError
from dispatcher.embedded import launch

COMMAND = (sys.executable, "-m", "dispatcher", "run")
OURS = ("DISPATCH", "OUTBOX_", "DLQ_", "REDIS_", "DATABASE_URL", "POSTGRES_URL")


class DispatcherEndedError(DispatcherError):
    """The dispatcher process ended, or never became ready. The message holds the last lines of its log."""


def clean_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Our environment without the dispatcher's own variables, plus these: the caller's shell must not steer the run."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS)} | dict(settings)


class DispatcherProcess:
    """A running dispatcher. `stop` may be called at any time, any number of times."""

    def __init__(self, settings: Mapping[str, str], log: Path, *, command: Sequence[str] = COMMAND) -> None:
        self.log = log
        self.port = int(settings["DISPATCH_HTTP_PORT"])
        with log.open("ab") as output:
            # The launcher ties its life to ours, should we be killed. A session of its own: Ctrl-C reaches us alone,
            # and we stop it in order.
            tie = [str(os.getpid()), str(int(signal.SIGTERM)), str(os.geteuid()), str(os.getegid())]
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(launch.__file__).resolve()), *tie, *command],
                env=clean_environment(settings),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def last_lines(self, count: int = 12) -> str:
        """The end of its log."""
        with self.log.open(errors="replace") as lines:
            return "".join(f"  {line.rstrip()}\n" for line in deque(lines, maxlen=count)) or "  (it logged nothing)\n"

    def check(self) -> None:
        """Raises DispatcherEndedError when it has ended."""
        code = self.process.poll()
        if code is None:
            return
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise self._ended(how)

    def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Returns when /ready answers 200. Raises DispatcherEndedError when it ends or is not ready in time."""
        deadline = time.monotonic() + timeout_s
        answer = "no answer"
        while time.monotonic() < deadline:
            self.check()
            answer = self._ask_ready()
            if answer == "":
                return
            time.sleep(0.05)
        raise self._ended(f"was not ready within {timeout_s:.0f} s ({answer})")

    def _ended(self, how: str) -> "DispatcherEndedError":
        return DispatcherEndedError(f"the dispatcher {how}. Its last log lines:\n{self.last_lines()}".rstrip())

    def _ask_ready(self) -> str:
        """Empty when ready, otherwise why not."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/ready")
            response = connection.getresponse()
            body = response.read(500).decode(errors="replace")
            return "" if response.status == 200 else f"/ready says {response.status} {body}"
        except (OSError, http.client.HTTPException) as error:
            return f"/ready: {type(error).__name__}"
        finally:
            connection.close()

    def cpu_seconds(self) -> float:
        """Processor time it and its own children have used so far, from /proc (Linux)."""
        ticks = os.sysconf("SC_CLK_TCK")
        return sum(sum(map(int, fields[11:13])) for fields in self._stat()) / ticks

    def _stat(self) -> Iterator[list[str]]:
        """The fields of /proc/<pid>/stat after the name, for the process and its descendants."""
        waiting = [self.pid]
        while waiting:
            pid = waiting.pop()
            with contextlib.suppress(OSError):
                yield Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                for task in Path(f"/proc/{pid}/task").iterdir():
                    waiting.extend(map(int, (task / "children").read_text().split()))

    def stop(self, grace_s: float = 15.0) -> int:
        """SIGTERM, then SIGKILL after the grace. Returns its exit code (negative: the signal that ended it)."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(grace_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # what overstayed the grace, and workers that outlived their parent
        return self.process.wait()

    def __enter__(self) -> "DispatcherProcess":
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
