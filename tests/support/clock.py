"""Servers whose clock the test sets while they run, by libfaketime (Debian: faketime)."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dispatcher.embedded import EmbeddedPostgres, EmbeddedValkey
from dispatcher.embedded.folders import User
from dispatcher.embedded.server import EmbeddedServer
from tests.support.postgres import StartPostgres
from tests.support.redis import StartValkey

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
        tell(self.file, ahead_s)
        assert abs(self.ahead_s() - ahead_s) < 30

    def ahead_s(self) -> float:
        """How far its clock is ahead of the test's, by a round trip."""
        with psycopg.connect(self.url) as connection:
            [(ahead_s,)] = connection.execute(
                "SELECT date_part('epoch', clock_timestamp() - %s)", [datetime.now(UTC)]
            ).fetchall()
        return float(ahead_s)


StartClocked = Callable[..., ClockedPostgres]
StartClockedValkey = Callable[[], tuple[EmbeddedValkey, Callable[[int], None]]]


@pytest.fixture
def clocked_postgres(own_postgres: StartPostgres, server_folder: Path, monkeypatch: pytest.MonkeyPatch) -> StartClocked:
    """Starts a Postgres of the test's own whose clock can be set."""

    def start(**arguments: Any) -> ClockedPostgres:
        server = own_postgres(**arguments)
        return ClockedPostgres(server, faked(server, server_folder, monkeypatch))

    return start


@pytest.fixture
def clocked_valkey(own_valkey: StartValkey, server_folder: Path, monkeypatch: pytest.MonkeyPatch) -> StartClockedValkey:
    """Starts a Valkey of the test's own; with it comes what sets its clock, to so many seconds ahead of ours."""

    def start() -> tuple[EmbeddedValkey, Callable[[int], None]]:
        server = own_valkey()
        return server, partial(tell, faked(server, server_folder, monkeypatch))

    return start


def tell(file: Path, ahead_s: int) -> None:
    """Say to the server that reads this file how far its clock is ahead."""
    told = file.with_suffix(".new")
    told.write_text(f"{ahead_s:+d}\n")
    told.rename(file)  # at once: a server that found half of it would stop faking


def faked(server: EmbeddedServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Start the server again, with a clock that it reads from this file."""
    if not _LIBRARIES:
        pytest.skip("there is no libfaketime (Debian: apt-get install faketime): no clock is really set")
    file = folder / f"clock-{secrets.token_hex(4)}"
    file.write_text("+0\n")
    server.stop()
    plain = server._command
    variables = [
        f"LD_PRELOAD={_LIBRARIES[0]}",
        f"FAKETIME_TIMESTAMP_FILE={file}",
        "FAKETIME_NO_CACHE=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
        "NO_FAKE_STAT=1",
    ]

    def command() -> tuple[Sequence[str], User]:
        words, user = plain()
        return ["/usr/bin/env", *variables, *words], user

    monkeypatch.setattr(server, "_command", command)
    server.start()
    return file
