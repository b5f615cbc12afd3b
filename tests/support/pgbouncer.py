"""A real PgBouncer before a database."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from dispatcher.embedded import free_port


@contextmanager
def pgbouncer(folder: Path, url: str, *, user: str, mode: str = "transaction", options: str = "") -> Iterator[str]:
    """Pools `mode`: transaction or session. `options`: lines for its ini. Yields the URL through it, as that user."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed (Debian: apt-get install pgbouncer)")
    parts, port = urlsplit(url), free_port()
    folder.mkdir(mode=0o755)
    (folder / "users.txt").write_text(f'"{user}" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={parts.hostname} port={parts.port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n"
        f"auth_file = {folder}/users.txt\npool_mode = {mode}\nmax_client_conn = 100\n{options}\n"
    )
    as_user = ["-u", "nobody"] if os.geteuid() == 0 else []
    if as_user:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, *as_user, str(folder / "pgbouncer.ini")], stdout=log, stderr=log)
        try:
            yield parts._replace(netloc=f"{user}@127.0.0.1:{port}").geturl()
        finally:
            process.terminate()
            process.wait(10)


async def listens_at(url: str) -> bool:
    """Whether a connection can be made there."""
    try:
        await (await psycopg.AsyncConnection.connect(url)).close()
    except psycopg.OperationalError:
        return False
    return True
