"""A real standby of a Postgres: made by pg_basebackup, fed by streaming replication, promoted by pg_ctl."""

import os
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from dispatcher.embedded import EmbeddedPostgres
from dispatcher.embedded.folders import User

PATIENCE_S = 60.0


class Standby(EmbeddedPostgres):
    """Follows the server of `primary_url` until it is promoted. Never waits for the disk: it is not meant to last."""

    def __init__(self, data_dir: Path, primary_url: str, *, version: int) -> None:
        super().__init__(data_dir, version=version, durable=False)
        self._primary_url = primary_url

    def promote(self) -> None:
        """Make it the primary, and wait until it is."""
        user = self._user()
        other = user.uid != os.geteuid()
        subprocess.run(
            [str(self.bin("pg_ctl")), "promote", "-D", str(self._cluster()), "-w", "-t", str(int(PATIENCE_S))],
            check=True,
            cwd="/",
            capture_output=True,
            timeout=PATIENCE_S,
            user=user.uid if other else None,
            group=user.gid if other else None,
        )

    def _initdb(self, user: User) -> None:
        command = [
            str(self.bin("pg_basebackup")),
            f"--pgdata={self._cluster()}",
            f"--dbname={urlsplit(self._primary_url)._replace(path='').geturl()}",
            "--write-recovery-conf",
            "--wal-method=stream",
            "--checkpoint=fast",
            "--no-sync",
        ]
        self._cluster().mkdir(mode=0o700)
        if user.uid != os.geteuid():
            os.chown(self._cluster(), user.uid, user.gid)
        child = self._run(command, user)
        assert child.wait(PATIENCE_S), "pg_basebackup does not end"
        assert child.returncode == 0, child.last_words()

    def _ready(self) -> bool:
        try:
            lines = (self._cluster() / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        # "standby": it follows, and answers questions; "ready" only after a restart.
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() in ("standby", "ready")
