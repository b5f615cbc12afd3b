"""psql, as an operator types it: from the embedded wheel, against any server."""

import subprocess
from pathlib import Path

from dispatcher.embedded import EmbeddedPostgres


def client_program(name: str) -> Path:
    """psql or pg_dump of the newest version, which talk to every version we support."""
    return EmbeddedPostgres(Path("unused")).bin(name)


def psql(url: str, *arguments: str, text: str | None = None) -> str:
    """Run psql; what it wrote, notices included. Fails at the first error. `text`: its standard input."""
    command = [str(client_program("psql")), "-X", "-v", "ON_ERROR_STOP=1", "-d", url, *arguments]
    result = subprocess.run(
        command, input=text, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert result.returncode == 0, result.stdout
    return result.stdout
