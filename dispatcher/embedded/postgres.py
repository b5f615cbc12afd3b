"""A Postgres of our own, version 16 or 18, on 127.0.0.1.

Its folder holds `cluster` (what initdb made), `server.log` and `lock`. Everybody on this machine may connect as the
superuser `postgres`, without a password: it is meant for demonstrations, development and tests.
"""

import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from dispatcher.core.errors import Misconfigured
from dispatcher.embedded.folders import User, closed_to, naming, unprivileged_user
from dispatcher.embedded.install import postgres_programs
from dispatcher.embedded.ports import HOST
from dispatcher.embedded.server import EmbeddedServer

_INITDB_TIMEOUT_S = 120.0
_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "shared_buffers": "128MB",
    "max_connections": "200",
    "max_wal_size": "2GB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


class EmbeddedPostgres(EmbeddedServer):
    """Keeps its data in `data_dir` and finds it there again. Give it a folder of its own.

    `durable=False` makes commits cheap and a crash of the machine fatal to the data. `options` are Postgres settings.
    """

    name = "Postgres"
    port_option = "--postgres-port"
    stop_signal: ClassVar[int] = signal.SIGINT  # fast shutdown
    death_signal: ClassVar[int] = signal.SIGQUIT  # immediate shutdown: recovers at the next start

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int | None = None,
        version: int = 18,
        durable: bool = True,
        options: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(data_dir, port=port)
        self.version = version
        self.durable = durable
        self.options = dict(options or {})

    def url(self, database: str = "postgres") -> str:
        """A connection URL for its superuser."""
        return f"postgresql://postgres@{HOST}:{self.port}/{database}"

    def bin(self, program: str) -> Path:
        """The path of psql, pgbench, pg_dump ... of the same version."""
        return self._programs() / program

    def _cluster(self) -> Path:
        return self.data_dir / "cluster"

    def _user(self) -> User:
        return unprivileged_user(self._cluster())

    def _programs(self) -> Path:
        return postgres_programs(self.version, self._user())

    def _require_programs(self) -> None:
        self._programs()

    def _prepare(self) -> None:
        user = self._user()
        closed = closed_to(user, self.data_dir)
        if closed is not None:
            raise Misconfigured(
                f"Postgres refuses to run as root, and as {user.name} it cannot enter {closed}; "
                "choose a data folder outside it, or run as a normal user"
            )
        with naming(self.data_dir):
            found = self._cluster_version()
            if found is None:
                self._initdb(user)
            elif found != str(self.version):
                raise Misconfigured(
                    f"{self.data_dir} holds data of Postgres {found}, not {self.version}; "
                    "choose another folder or remove it"
                )

    def _cluster_version(self) -> str | None:
        if not self._cluster().exists():
            return None
        return (self._cluster() / "PG_VERSION").read_text().strip()

    def _initdb(self, user: User) -> None:
        # Under another name first: an initdb that was interrupted must not be taken for a cluster.
        unfinished = self.data_dir / "cluster.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if user.uid != os.geteuid():
            os.chown(unfinished, user.uid, user.gid)
        command = [
            str(self.bin("initdb")),
            f"--pgdata={unfinished}",
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-instructions",
            *([] if self.durable else ["--no-sync"]),
        ]
        child = self._run(command, user)
        if not child.wait(_INITDB_TIMEOUT_S) or child.returncode != 0:
            raise Misconfigured(f"initdb failed in {self.data_dir}: {child.last_words()} (log: {self.log})")
        unfinished.rename(self._cluster())

    def _command(self) -> tuple[Sequence[str], User]:
        settings = _SETTINGS | ({} if self.durable else _NOT_DURABLE) | {"port": str(self.port)} | self.options
        flags = [flag for name, value in settings.items() for flag in ("-c", f"{name}={value}")]
        return [str(self.bin("postgres")), "-D", str(self._cluster()), *flags], self._user()

    def _ready(self) -> bool:
        # What pg_ctl looks at: the postmaster writes its state into the eighth line of this file.
        try:
            lines = (self._cluster() / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"
