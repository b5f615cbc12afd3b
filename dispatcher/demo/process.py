"""The dispatcher as a child process: start it, wait until it is ready, check that it runs, stop it."""

import contextlib
import http.client
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from dispatcher.core.errors import DispatcherError
from dispatcher.embedded.folders import current_user
from dispatcher.embedded.process import Child

COMMAND = (sys.executable, "-m", "dispatcher", "run")
OURS = ("DISPATCH", "OUTBOX_", "DLQ_", "REDIS_", "DATABASE_URL", "POSTGRES_URL")


def connected(database_url: str, redis_url: str, http_port: int) -> dict[str, str]:
    """The settings of a dispatcher that works between these servers."""
    return {
        "DISPATCHER_ENABLED": "true",
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "DISPATCH_HTTP_HOST": "127.0.0.1",
        "DISPATCH_HTTP_PORT": str(http_port),
    }


class DispatcherEndedError(DispatcherError):
    """The dispatcher process ended, or never became ready. The message holds the last lines of its log."""


class DispatcherProcess:
    """A running dispatcher, which does not outlive us. `stop` may be called at any time, any number of times.

    `settings` are environment variables. `without`: how those of the caller's shell begin that are left out; by default
    all for a dispatcher.
    """

    def __init__(
        self, settings: Mapping[str, str], log: Path, *, command: Sequence[str] = COMMAND, without: Sequence[str] = OURS
    ) -> None:
        self.log = log
        self.port = int(settings["DISPATCH_HTTP_PORT"])
        environment = {name: value for name, value in os.environ.items() if not name.startswith(tuple(without))}
        environment |= settings
        self._child = Child(
            command,
            user=current_user(),
            death_signal=signal.SIGTERM,
            log=log,
            environment=environment,
            folder=Path.cwd(),
        )

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def runs(self) -> bool:
        return self._child.returncode is None

    def signal(self, number: int) -> None:
        """Send it a signal, as somebody else would."""
        self._child.signal(number)

    def last_lines(self, count: int = 12) -> str:
        """The end of its log, a line each."""
        return "".join(f"  {line}\n" for line in self._child.last_lines(count)) or "  (it logged nothing)\n"

    def check(self) -> None:
        """Raises DispatcherEndedError when it has ended."""
        code = self._child.returncode
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

    def stop(self, grace_s: float = 15.0) -> int:
        """SIGTERM, then SIGKILL after `grace_s` seconds. Returns its exit code (negative: the signal that ended it)."""
        if self._child.returncode is None:
            self._child.signal(signal.SIGTERM)
            self._child.wait(grace_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # the process itself after the grace, and workers that outlived it
        return self._child.end()

    def __enter__(self) -> "DispatcherProcess":
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
