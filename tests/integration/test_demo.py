"""`dispatcher demo` as a stranger runs it: a process of its own, judged by its exit code, output and what it leaves."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dispatcher.demo.verdict import SLA_P95_MS

DEADLINE_S = 250.0


@contextmanager
def running(temporary: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A demo that keeps its folder in `temporary`. Killed at the end, should it still run."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dispatcher", "demo", *options],
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def until(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    """The first line of its standard error that matches; with --json that is where it tells what it does."""
    assert process.stderr is not None
    seen = ""
    for line in process.stderr:
        seen += line
        if found := re.search(pattern, line):
            return found
    raise AssertionError(f"the demo ended without saying {pattern!r}:\n{seen}")


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """The rest of its output, once it has ended."""
    return process.communicate(timeout=DEADLINE_S)


@pytest.fixture
def temporary(server_folder: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty folder that Postgres may enter; the demo must leave it empty."""
    folder = server_folder / f"demo-{abs(hash(request.node.name)):x}"
    folder.mkdir()
    folder.chmod(0o755)
    yield folder
    assert list(folder.iterdir()) == [], "the demo left its files behind"


def alive(folder: Path) -> list[str]:
    """Command lines of processes that work in the demo's folder or have its TMPDIR: what it started and left."""
    mark = f"TMPDIR={folder}".encode()
    lines = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = mark in (process / "environ").read_bytes().split(b"\0")
            if ours or (process / "cwd").readlink().is_relative_to(folder):  # servers overwrite their environment
                lines.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # ended while we looked, or somebody else's
    return lines


def test_every_event_arrives_once(temporary: Path) -> None:
    with running(temporary, "--rate", "100", "--seconds", "2", "--json") as demo:
        output, errors = finish(demo)
    result = json.loads(output)
    late = result["p95_ms"] >= SLA_P95_MS  # this machine is too busy just now, and the demo must say so
    assert (demo.returncode, result["verdict"]) == ((1, "BROKEN") if late else (0, "met")), errors
    assert (result["committed"], result["received"], result["sent"]) == (200, 200, 200)
    assert (result["lost"], result["duplicated"]) == (0, 0)
    assert 0 < result["p50_ms"] <= result["p95_ms"] <= result["max_ms"]
    assert alive(temporary) == []


def test_elsewhere_than_on_a_terminal_it_prints_plain_lines_and_the_table(temporary: Path) -> None:
    with running(temporary, "--rate", "50", "--seconds", "1") as demo:
        output, errors = finish(demo)
    assert demo.returncode == ("the SLA is under" in output + errors), errors
    assert "\x1b" not in output
    for expected in ("dispatcher ready (pid ", "rows marked sent", "p99", "SLA", "Next:"):
        assert expected in output


def test_a_dispatcher_that_dies_ends_the_demo_with_the_reason(temporary: Path) -> None:
    with running(temporary, "--rate", "50", "--seconds", "600", "--json") as demo:
        os.kill(int(until(demo, r"ready \(pid (\d+)\)")[1]), signal.SIGKILL)
        output, errors = finish(demo)
    assert demo.returncode == 1
    assert output == ""
    assert "the dispatcher was ended by SIGKILL. Its last log lines:" in errors
    assert "Traceback" not in errors
    assert alive(temporary) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything(temporary: Path, number: signal.Signals) -> None:
    with running(temporary, "--rate", "50", "--seconds", "600", "--json") as demo:
        until(demo, r"sending 50 events/s")
        assert len(alive(temporary)) >= 4  # the demo, its servers, its dispatcher: the look below can see them
        demo.send_signal(number)
        _, errors = finish(demo)
    assert demo.returncode == 130
    assert f"ended by {number.name}" in errors
    assert "Traceback" not in errors
    assert alive(temporary) == []


def test_a_temporary_folder_that_cannot_be_written_is_named(temporary: Path) -> None:
    missing = temporary / "missing"
    with running(missing, "--seconds", "1") as demo:
        _, errors = finish(demo)
    assert demo.returncode == 2
    assert f"cannot make a folder in {missing}" in errors
    assert "TMPDIR" in errors


def test_a_port_that_is_taken_is_named(temporary: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with running(temporary, "--seconds", "1", "--http-port", str(port)) as demo:
            _, errors = finish(demo)
    assert demo.returncode == 2
    assert f"port {port}" in errors
    assert "--http-port" in errors


@pytest.mark.parametrize("options", [("--rate", "0"), ("--seconds", "-1"), ("--nonsense",)])
def test_bad_usage_is_exit_code_2(temporary: Path, options: tuple[str, ...]) -> None:
    with running(temporary, *options) as demo:
        _, errors = finish(demo)
    assert demo.returncode == 2
    assert options[0] in errors
