"""A Valkey (the free Redis) of our own on 127.0.0.1, without a password."""

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from dispatcher.embedded.folders import User, current_user
from dispatcher.embedded.install import valkey_server
from dispatcher.embedded.ports import HOST
from dispatcher.embedded.server import EmbeddedServer


class EmbeddedValkey(EmbeddedServer):
    """Keeps its data in `data_dir` when `appendonly`, else in memory only. `options` are Valkey directives."""

    name = "Valkey"
    port_option = "--redis-port"
    stop_signal: ClassVar[int] = signal.SIGTERM
    # The append-only file is written before the answer, by a disk that keeps up.
    death_signal: ClassVar[int] = signal.SIGKILL
    ready_words: ClassVar[str] = "Ready to accept connections"

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int | None = None,
        appendonly: bool = False,
        options: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(data_dir, port=port)
        self.appendonly = appendonly
        self.options = dict(options or {})

    @property
    def url(self) -> str:
        """A connection URL for its database 0."""
        return f"redis://{HOST}:{self.port}/0"

    def _require_programs(self) -> None:
        valkey_server()

    def _command(self) -> tuple[Sequence[str], User]:
        directives = {
            "bind": HOST,
            "port": str(self.port),
            "dir": str(self.data_dir),
            "save": "",
            "appendonly": "yes" if self.appendonly else "no",
        } | self.options
        flags = [flag for name, value in directives.items() for flag in (f"--{name}", value)]
        return [str(valkey_server()), *flags], current_user()

    def _ready(self) -> bool:
        # As it says itself. An answer on the port may be another server's: of two that chose the same port, one ends.
        return self._child is not None and self._child.wrote(self.ready_words)
