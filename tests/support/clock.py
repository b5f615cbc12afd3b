"""A Postgres whose clock the test sets while it runs, by libfaketime (Debian: faketime)."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dispatcher.embedded import EmbeddedPostgres
from dispatcher.embedded.folders import User
from tests.support.postgres import StartPostgres

_LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


@dataclass(frozen=True, slots=True)
class ClockedPostgres:
    """The server, and what it reads its clock from."""

    server: EmbeddedPostgres
    file: Path

    @property
    def url(self) -> str:
        """Of its superuser."""
        return self.server.url()

    def set_clock(self, ahead_s: int) -> None:
        """Set its clock to so many seconds ahead of ours; negative: behind."""
        told = self.file.with_suffix(".new")
        told.write_text(f"{ahead_s:+d}\n")
        told.rename(self.file)  # at once: a server that found half of it would stop faking
        assert abs(self.ahead_s() - ahead_s) < 30

    def ahead_s(self) -> float:
        """How far its clock is ahead of the test's, by a round trip."""
        with psycopg.connect(self.url) as connection:
            [(ahead_s,)] = connection.execute(
                "SELECT date_part('epoch', clock_timestamp() - %s)", [datetime.now(UTC)]
            ).fetchall()
        return float(ahead_s)


StartClocked = Callable[..., ClockedPostgres]


@pytest.fixture
def clocked_postgres(own_postgres: StartPostgres, server_folder: Path, monkeypatch: pytest.MonkeyPatch) -> StartClocked:
    """Starts a Postgres of the test's own whose clock can be set."""
    if not _LIBRARIES:
        pytest.skip("there is no libfaketime (Debian: apt-get install faketime): no clock is really set")

    def start(**arguments: Any) -> ClockedPostgres:
        file = server_folder / f"clock-{secrets.token_hex(4)}"
        file.write_text("+0\n")
        server = own_postgres(**arguments)
        server.stop()
        plain = server._command
        faked = [
            f"LD_PRELOAD={_LIBRARIES[0]}",
            f"FAKETIME_TIMESTAMP_FILE={file}",
            "FAKETIME_NO_CACHE=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
            "NO_FAKE_STAT=1",
        ]

        def command() -> tuple[Sequence[str], User]:
            words, user = plain()
            return ["/usr/bin/env", *faked, *words], user

        monkeypatch.setattr(server, "_command", command)
        server.start()
        return ClockedPostgres(server, file)

    return start
