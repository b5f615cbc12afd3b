"""`dispatcher demo --stay` on a terminal, by its keys: each breaks a part and mends it, and the console shows it."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest

from dispatcher.demo.traffic import DIE_AT_ONCE, TOO_LARGE, DemoProducer
from tests.support.rows import one_row
from tests.support.waiting import NeverCameTrue, until

PATIENCE_S = 90.0


class Terminal:
    """The demo on a terminal of its own."""

    def __init__(self, temporary: Path, *options: str) -> None:
        ours, theirs = pty.openpty()
        self._ours = ours
        self.seen = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dispatcher", "demo", "--stay", *options],
            env=os.environ | {"TMPDIR": str(temporary), "TERM": "xterm", "COLUMNS": "200"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    def says(self, pattern: str) -> re.Match[str]:
        """Read on until something new matches."""
        deadline = time.monotonic() + PATIENCE_S
        while (found := re.search(pattern, self.seen)) is None:
            assert time.monotonic() < deadline, f"no {pattern!r} in: {self.seen[-3000:]}"
            ready, _, _ = select.select([self._ours], [], [], 1.0)
            if ready:
                try:
                    self.seen += os.read(self._ours, 65536).decode(errors="replace")
                except OSError:
                    raise AssertionError(f"it ended without {pattern!r}: {self.seen[-3000:]}") from None
        self.seen = self.seen[found.end() :]
        return found

    def press(self, key: str) -> None:
        os.write(self._ours, key.encode())

    def end(self) -> int:
        """Its exit code, after the rest of what it writes."""
        while True:
            try:
                if not os.read(self._ours, 65536):
                    break
            except OSError:
                break
        return self.process.wait(PATIENCE_S)


@contextmanager
def running(temporary: Path, *options: str) -> Iterator[Terminal]:
    demo = Terminal(temporary, *options)
    try:
        yield demo
    finally:
        if demo.process.poll() is None:
            demo.process.kill()
            demo.process.wait()
        os.close(demo._ours)


@pytest.fixture
def temporary(server_folder: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty folder that Postgres may enter; the demo must leave it empty."""
    folder = server_folder / f"stay-{abs(hash(request.node.name)):x}"
    folder.mkdir()
    folder.chmod(0o755)
    yield folder
    assert list(folder.iterdir()) == [], "the demo left its files behind"


async def becomes(url: str, wanted: Callable[[dict[str, Any]], bool], what: str) -> None:
    """Ask the console until it says so."""
    seen: dict[str, Any] = {}

    async def look() -> bool:
        async with aiohttp.ClientSession() as asking, asking.get(f"{url}api/overview") as answer:
            seen.update(await answer.json())
        return wanted(seen)

    try:
        await until(look, what, PATIENCE_S)
    except NeverCameTrue as error:
        raise AssertionError(f"{error}; the console said: {seen}") from None


def in_trouble(kind: str, *, there: bool) -> Callable[[dict[str, Any]], bool]:
    return lambda seen: any(state["kind"] == kind and not state["ok"] for state in seen["states"]) is there


async def test_each_key_breaks_a_part_and_mends_it(temporary: Path) -> None:
    with running(temporary, "--rate", "50") as demo:
        url = demo.says(r"look at the console: (http://127\.0\.0\.1:\d+/)")[1]
        demo.says(r" received by the consumer")
        await becomes(
            url, lambda seen: seen["totals"]["published"] > 10 and seen["deployment"] == "demo", "events go out"
        )
        await becomes(url, lambda seen: len(seen["dispatchers"] or []) == 2, "two dispatchers")
        for key, name, kind in (("r", "Redis", "redis"), ("p", "Postgres", "database")):
            demo.press(key)
            demo.says(f"{name}: stopped")
            await becomes(url, in_trouble(kind, there=True), f"{name} is away")
            demo.press(key)
            demo.says(f"{name}: there again")
            await becomes(url, in_trouble(kind, there=False), f"{name} is back")
        await becomes(url, lambda seen: len(seen["dispatchers"] or []) == 2, "both are there again")
        demo.press("d")
        demo.says("second dispatcher: killed")
        await becomes(url, lambda seen: len(seen["dispatchers"] or []) == 1, "one dispatcher")
        demo.press("d")
        demo.says("second dispatcher: there again")
        await becomes(url, lambda seen: len(seen["dispatchers"] or []) == 2, "two dispatchers again")
        demo.press("x")
        demo.says("events that are too large")  # a terminal that nobody reads holds up what is said, and the keys
        await becomes(url, lambda seen: seen["dead"] == 20, "twenty dead events")
        demo.press("q")
        demo.says("Stopped; nothing is left of it")
        assert demo.end() == 0


async def test_a_press_while_an_event_is_committed_makes_all_of_its_events(
    database_url: str, db: psycopg.AsyncConnection[Any]
) -> None:
    """Nineteen died where the event on its way was counted as one of them."""
    producer = DemoProducer(database_url, rate=1000.0)
    async with db.transaction():
        await db.execute("LOCK TABLE messaging.message_outbox IN SHARE MODE")
        producer.start()
        waits = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'messaging.message_outbox'::regclass"
        await until(lambda: one_row(db, waits), "an event is on its way")
        producer.die()
    try:
        await until(lambda: producer.committed > 2 * DIE_AT_ONCE, "events are committed")
    finally:
        producer.stop()
    large = f"SELECT FROM messaging.message_outbox WHERE length(payload::text) > {TOO_LARGE}"
    assert (await db.execute(large.encode())).rowcount == DIE_AT_ONCE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_is_no_failure(temporary: Path, number: signal.Signals) -> None:
    with running(temporary) as demo:
        demo.says("look at the console: http")
        demo.process.send_signal(number)
        demo.says("Stopped; nothing is left of it")
        assert demo.end() == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--seconds", "3"), "--seconds does nothing with --stay"),
        (("--json",), "--json does nothing with --stay"),
        (("--rows", "3"), "--rows needs --seed-only"),
        (("--seed-only",), "--stay does nothing with --seed-only"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(temporary: Path, options: tuple[str, ...], said: str) -> None:
    with running(temporary, *options) as demo:
        demo.says(said)
        assert demo.end() == 2
