"""What the two servers have in common: folder, port, start, stop, and a stop at the exit of a forgetful program."""

import atexit
import os
import signal
import time
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from dispatcher.core.errors import Misconfigured, Unreachable
from dispatcher.embedded.entered import Entered
from dispatcher.embedded.folders import User, lock_folder, make_folder, naming
from dispatcher.embedded.ports import HOST, free_port, require_free, taken
from dispatcher.embedded.process import Child

_POLL_S = 0.01
_PORT_TRIES = 5


class EmbeddedServer(Entered):
    """A server of our own on 127.0.0.1. start, stop and crash are idempotent; it can be started again after either.

    Used by one thread at a time.
    """

    name: ClassVar[str]
    port_option: ClassVar[str]
    stop_signal: ClassVar[int]
    death_signal: ClassVar[int]  # what the kernel sends it when we die
    start_timeout_s = 60.0
    stop_timeout_s = 30.0
    lock_wait_s = 5.0  # a server whose starter was killed needs a moment to end
    find_port = staticmethod(free_port)

    def __init__(self, data_dir: Path, *, port: int | None) -> None:
        self.data_dir = data_dir.absolute()
        self.log = self.data_dir / "server.log"
        self._port = port
        self._child: Child | None = None
        self._lock: int | None = None
        self._owner = os.getpid()

    @property
    def port(self) -> int:
        """The port it listens on; known once started, and the same after a restart."""
        if self._port is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._port

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._child is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended since."""
        return self._child is not None and self._child.returncode is None

    def start(self) -> None:
        """Start it and wait until it answers. Raises Misconfigured or Unreachable, and then leaves nothing running."""
        if self.running:
            return
        self._let_go()
        atexit.register(self._at_exit)
        try:
            self._require_programs()
            with naming(self.data_dir):
                make_folder(self.data_dir)
                self.data_dir = self.data_dir.resolve()
                self._lock = lock_folder(self.data_dir, self.lock_wait_s)
            self._prepare()
            if self._port is not None:
                require_free(self._port, self.port_option)
                self._launch()
            else:
                self._launch_on_any_port()
        except BaseException:
            self.crash()
            raise

    def stop(self) -> None:
        """Ask it to end, wait, and kill it when it does not."""
        if self._child is not None and self._child.returncode is None:
            self._child.signal(signal.SIGCONT)  # a frozen process would never see the next one
            self._child.signal(self.stop_signal)
            self._child.wait(self.stop_timeout_s)
        self.crash()

    def crash(self) -> None:
        """Kill it and all its processes at once, and wait until they are gone."""
        if self._child is not None:
            self._child.kill()
        self._let_go()

    @abstractmethod
    def _require_programs(self) -> None:
        """Raise Misconfigured where the wheel is missing, before anything is made."""

    def _prepare(self) -> None:  # most servers need nothing
        """Make what is in the data folder ready to start on."""

    @abstractmethod
    def _command(self) -> tuple[Sequence[str], User]:
        """The command line, and the user to run it as."""

    @abstractmethod
    def _ready(self) -> bool:
        """Whether the running server takes clients."""

    def _choose_port(self) -> int:
        """A port that nobody had a moment ago; whoever needs two ports looks for both again."""
        return self.find_port()

    def _launch_on_any_port(self) -> None:
        for left in reversed(range(_PORT_TRIES)):
            self._port = self._choose_port()
            try:
                return self._launch()
            except _PortTaken:  # by another process, since we looked
                if not left:
                    raise
        return None

    def _launch(self) -> None:
        command, user = self._command()
        child = self._run(command, user)
        deadline = time.monotonic() + self.start_timeout_s
        while not self._ready():
            if child.returncode is not None:
                words = child.last_words()
                if "address already in use" in words.lower():
                    raise _PortTaken(str(taken(self.port, self.port_option)))
                raise Misconfigured(f"{self.name} ended at its start: {words or 'it said nothing'} (log: {self.log})")
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"{self.name} on {HOST}:{self.port} does not answer after {self.start_timeout_s:.0f} s: "
                    f"{child.last_words() or 'it said nothing'} (log: {self.log})"
                )
            time.sleep(_POLL_S)

    def _run(self, command: Sequence[str], user: User) -> Child:
        keep = [] if self._lock is None else [self._lock]
        # LC_ALL: we read the messages. PG*: the user's own settings are for other servers.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}
        with naming(self.data_dir):
            self._child = Child(
                command, user=user, death_signal=self.death_signal, log=self.log, environment=environment, keep=keep
            )
        return self._child

    def _let_go(self) -> None:
        self._child = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        atexit.unregister(self._at_exit)

    def _at_exit(self) -> None:
        if os.getpid() == self._owner:  # a fork of ours must not stop what is not its own
            self.stop()


class _PortTaken(Misconfigured):
    """Another process listens on the port."""
