"""Starts what an example needs: Postgres, Valkey and a dispatcher from the wheels, and the example's own processes.

In production your platform does this; there is nothing to copy here. What dies is started again, so kill what you like.
Ctrl-C ends everything.
"""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import anyio
from dispatcher.core.errors import DispatcherError
from dispatcher.demo.cleanup import InterruptedRunError, ending_in_order, scratch_folder
from dispatcher.demo.process import DispatcherProcess, connected
from dispatcher.embedded import EmbeddedPostgres, EmbeddedValkey, free_port
from dispatcher.infra.postgres.migrations import migrate

START_S = 60.0
LOOK_S = 0.2


def say(text: str) -> None:
    """On the terminal, at once."""
    print(text, flush=True)


@dataclass(slots=True)
class Part:
    """A process that is started again when it has ended. `url` answers 200 when it is ready."""

    name: str
    command: Sequence[str]
    port: int
    url: str = ""
    process: DispatcherProcess | None = field(default=None, init=False)


@dataclass(slots=True)
class Parts:
    """Everything that runs. Made by `together`."""

    folder: Path
    environment: Mapping[str, str]
    stack: ExitStack
    parts: list[Part] = field(default_factory=list)

    def run(self, *command: str) -> None:
        """Run a module of Python to its end, such as a migration. Raises DispatcherError with what it said."""
        done = subprocess.run(
            [sys.executable, "-m", *command],
            env=os.environ | self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode:
            raise DispatcherError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")

    def start(self, name: str, *command: str, port: int = 0, url: str = "") -> None:
        """Start a module of Python and wait until its `url` answers."""
        part = Part(name, [sys.executable, "-m", *command], port, url)
        self.parts.append(part)
        self._start(part)

    def stay(self) -> None:
        """Start again what has ended, until Ctrl-C."""
        while True:
            time.sleep(LOOK_S)
            for part in self.parts:
                if part.process is not None and not part.process.runs:
                    say(f"{part.name}: ended; starting it again")
                    part.process.stop()
                    self._start(part)

    def _start(self, part: Part) -> None:
        part.process = self._launch(part)
        deadline = time.monotonic() + START_S
        while part.url and not answers(part.url):
            part.process.check()
            if time.monotonic() > deadline:
                raise DispatcherError(f"{part.name} does not answer:\n{part.process.last_lines()}")
            time.sleep(LOOK_S / 4)
        say(f"{part.name}: running (pid {part.process.pid})")

    def _launch(self, part: Part) -> DispatcherProcess:
        log = self.folder / f"{part.name}.log"
        settings = {**self.environment, "DISPATCH_HTTP_PORT": str(part.port)}
        return self.stack.enter_context(DispatcherProcess(settings, log, command=part.command))


def answers(url: str) -> bool:
    """Whether it answers 200."""
    with suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 -- our own address
        return bool(answer.status == 200)
    return False


def together(
    begin: Callable[[Parts], None], dispatchers: int = 2, settings: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Postgres with the outbox, Valkey, dispatchers, and what `begin` starts. Until Ctrl-C, which ends all of it.

    `settings`: variables of them all.
    """
    try:
        with suppress(InterruptedRunError), ending_in_order() as stack:
            folder = stack.enter_context(scratch_folder("example-"))
            say("starting Postgres and Valkey")
            postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres"))
            valkey = stack.enter_context(EmbeddedValkey(folder / "valkey", appendonly=True))
            anyio.run(migrate, postgres.url())
            parts = Parts(folder, {**settings, **connected(postgres.url(), valkey.url, 0)}, stack)
            for number in range(1, dispatchers + 1):
                port = free_port()
                parts.start(
                    f"dispatcher {number}", "dispatcher", "run", port=port, url=f"http://127.0.0.1:{port}/ready"
                )
            begin(parts)
            parts.stay()
        say("Stopped; nothing is left of it.")
    except DispatcherError as error:
        say(str(error))
        sys.exit(error.exit_code)
