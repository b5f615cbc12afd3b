"""Standard output of a service: whoever writes never waits, what cannot be written is dropped and counted."""

import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator

import pytest

from dispatcher.infra.output import OutputQueue

LINE = b"x" * 999 + b"\n"
PIPE_BYTES = 4096


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe that holds four lines."""
    ours, theirs = os.pipe()
    fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    yield ours, theirs
    os.close(ours)


def read_lines(descriptor: int, until: bytes) -> list[bytes]:
    """The lines up to one that contains `until`."""
    with os.fdopen(os.dup(descriptor), "rb") as stream:
        found = []
        for line in stream:
            found.append(line)
            if until in line:
                return found
    raise AssertionError(found)


def test_lines_that_nobody_reads_are_dropped_and_counted_and_told(pipe: tuple[int, int]) -> None:
    ours, theirs = pipe
    queue = OutputQueue(theirs, limit_bytes=10_000)
    for _ in range(100):
        queue.put(LINE)
    assert queue.dropped >= 90 - PIPE_BYTES // 1000
    dropped = queue.dropped
    found = read_lines(ours, b"lines dropped")
    assert found == [
        *[LINE] * (len(found) - 1),
        b"dispatcher: %d lines dropped here: nothing could be written\n" % dropped,
    ]
    assert len(found) - 1 + dropped == 100
    queue.put(b"the last\n")
    assert read_lines(ours, b"the last") == [b"the last\n"]
    queue.drain()


def test_a_wait_for_the_last_lines_ends(pipe: tuple[int, int]) -> None:
    _, theirs = pipe
    queue = OutputQueue(theirs)
    queue.put(LINE * 10)
    ended = threading.Event()

    def wait() -> None:
        queue.drain(0.01)
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    assert ended.wait(30)


def test_a_reader_that_is_gone_and_one_that_comes_back(tmp_path) -> None:
    path = tmp_path / "log"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    queue = OutputQueue(os.open(path, os.O_WRONLY))
    os.close(reader)
    queue.put(b"one\n")
    queue.put(b"two\n")
    queue.drain(30)
    assert queue.dropped == 2
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    queue.put(b"three\n")
    queue.drain(30)
    assert read_lines(reader, b"dropped")[:2] == [
        b"three\n",
        b"dispatcher: 2 lines dropped here: nothing could be written\n",
    ]
    os.close(reader)


def test_a_full_disk(tmp_path) -> None:
    queue = OutputQueue(os.open("/dev/full", os.O_WRONLY))
    queue.put(b"one\n")
    queue.drain(30)
    assert queue.dropped == 1


def test_a_descriptor_that_somebody_made_nonblocking(pipe: tuple[int, int]) -> None:
    ours, theirs = pipe
    os.set_blocking(theirs, False)
    queue = OutputQueue(theirs)
    for number in range(20):
        queue.put(LINE if number < 19 else b"last\n")
    assert read_lines(ours, b"last") == [*[LINE] * 19, b"last\n"]


PROGRAM = """
    import logging, multiprocessing, os, subprocess, sys, threading, warnings
    from dispatcher.infra.output import never_wait_for_output
    from dispatcher.telemetry import logs
    never_wait_for_output()
    logs.configure("INFO", "json")
    print("printed")
    sys.stdout.buffer.write(b"bytes\\n")
    warnings.warn("a warning")
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    logging.getLogger("shop").warning("logged")
    if (pid := os.fork()) == 0:
        print("from a child")
        os._exit(0)
    os.waitpid(pid, 0)
    subprocess.run(["echo", "from a program"], stdout=sys.stdout, check=True)
    print("the end", end="")
"""


def test_all_that_a_process_says_arrives_also_at_its_end() -> None:
    program = [sys.executable, "-c", textwrap.dedent(PROGRAM)]
    done = subprocess.run(program, capture_output=True, check=True, text=True, timeout=250)
    # What the process says itself goes through a thread, so lines of others may come before it.
    others = ("from a child", "from a program")
    assert [line for line in done.stdout.splitlines() if line not in others] == ["printed", "bytes", "the end"]
    assert sorted(line for line in done.stdout.splitlines() if line in others) == [*others]
    assert "a warning" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert '"message": "logged"' in done.stderr


CRASHES = """
    import os, signal
    from dispatcher.infra.output import never_wait_for_output
    never_wait_for_output()
    os.write(2, b"x" * 4096)  # the pipe is full
    os.kill(os.getpid(), signal.SIGSEGV)
"""


def test_a_crash_ends_the_process_though_nobody_reads(pipe: tuple[int, int]) -> None:
    _, theirs = pipe
    program = [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(CRASHES)]
    assert subprocess.run(program, stderr=theirs, check=False, timeout=250).returncode == -signal.SIGSEGV
