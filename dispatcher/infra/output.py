"""Standard output and standard error of a service: a thread of its own writes them, and nobody else ever waits for it.

A log reader that stops reading, a terminal stopped by Ctrl-S or a hanging disk would stop whoever writes, the event
loop first. Here a line goes into a queue of bounded size; when that is full, the newest lines are dropped and counted.
A reader that is gone and a full disk cost the lines too, and nothing else.
"""

import atexit
import faulthandler
import io
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from dispatcher.core.counted import counted

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

LIMIT_BYTES = 4 * 1024 * 1024  # of lines that wait for their reader
TELL_EVERY_S = 5.0  # between two lines that say what was dropped, while the queue stays full
LAST_WORDS_S = 2.0  # what the lines that wait get at the end of the process


class OutputQueue:
    """Writes what is put into it to a descriptor, from a daemon thread. Used by any thread.

    `on_dropped(lines)` is called on that thread when lines can be written again after some were dropped.
    """

    def __init__(self, descriptor: int, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self.descriptor = descriptor
        self.dropped = 0  # lines, so far; this and the next two are written under `_changed`
        self._bytes = 0  # that are not written yet
        self._waiting: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._limit_bytes = limit_bytes
        self._told = 0  # of the dropped lines; this and the next two are the thread's
        self._told_at = 0.0
        self._torn = False  # the last line was written in part
        self._direct = False  # in a process that somebody forked: it has no thread of ours
        self.on_dropped: Callable[[int], None] = self._tell_plainly
        self._thread = threading.Thread(target=self._run, name=f"output {descriptor}", daemon=True)
        self._thread.start()

    def put(self, data: bytes) -> None:
        """Have it written, after what was put before. Never waits."""
        if self._direct:
            self._write(data)
            return
        with self._changed:
            ours = threading.current_thread() is self._thread  # the line that tells of others must not be dropped
            if self._bytes + len(data) > self._limit_bytes and not ours:
                self.dropped += _lines(data)
                return
            self._waiting.append(data)
            self._bytes += len(data)
            self._changed.notify_all()

    def drain(self, patience_s: float = LAST_WORDS_S) -> None:
        """Wait until all is written, at most so long."""
        with self._changed:
            self._changed.wait_for(lambda: self._bytes == 0, patience_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
                data = self._waiting.popleft()
                # So much is written in one piece: lines of several processes on one pipe stay whole.
                while self._waiting and len(data) + len(self._waiting[0]) <= select.PIPE_BUF:
                    data += self._waiting.popleft()
            lost = self._write(data)
            with self._changed:
                self._bytes -= len(data)
                self.dropped += lost
                untold = self.dropped - self._told
                calm = self._bytes <= self._limit_bytes / 2 or monotonic() - self._told_at > TELL_EVERY_S
                tell = bool(untold and calm and not lost)
                if tell:
                    self._told, self._told_at = self.dropped, monotonic()
            if tell:
                self.on_dropped(untold)
            with self._changed:
                self._changed.notify_all()

    def _write(self, data: bytes) -> int:
        """Write it; returns how many lines could not be."""
        rest = memoryview(b"\n" + data if self._torn else data)
        while rest:
            try:
                rest = rest[os.write(self.descriptor, rest) :]
            except BlockingIOError:  # somebody who shares the descriptor set it so
                select.select([], [self.descriptor], [])
            except OSError:  # nobody reads any more, or the disk is full
                written = data[: len(data) - len(rest)]
                self._torn = bool(written) and not written.endswith(b"\n")
                return _lines(bytes(rest))
        self._torn = False
        return 0

    def _tell_plainly(self, lines: int) -> None:
        self.put(f"dispatcher: {counted(lines, 'line')} dropped here: nothing could be written\n".encode())

    def forked(self) -> None:
        """Write directly from now on. Called in a process that was forked off: the thread stayed behind."""
        self._changed = threading.Condition()
        self._waiting.clear()
        self._bytes = 0
        self._direct = True


class _Stream(io.RawIOBase):
    """What stands in for the descriptor below sys.stdout and sys.stderr."""

    def __init__(self, queue: OutputQueue, name: str) -> None:
        self.queue = queue
        self.name = name
        self.mode = "w"

    def write(self, data: "ReadableBuffer", /) -> int:
        copied = bytes(data)
        self.queue.put(copied)
        return len(copied)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.queue.descriptor

    def close(self) -> None:
        """Stay open: to close sys.stderr, as a handler may, would end the log, and the process at its next line."""

    def isatty(self) -> bool:
        return os.isatty(self.queue.descriptor)


_installed: list[tuple[OutputQueue, io.TextIOWrapper]] = []


def never_wait_for_output() -> None:
    """From now on whatever this process writes to sys.stdout and sys.stderr, handlers included, waits for no reader."""
    for name in ("stdout", "stderr"):
        old = getattr(sys, name)
        if old is None or old is not getattr(sys, f"__{name}__"):
            continue  # closed by whoever started us, or not the process's own
        queue = OutputQueue(old.fileno())
        os.register_at_fork(after_in_child=queue.forked)
        stream = io.TextIOWrapper(
            _Stream(queue, old.name),
            encoding=old.encoding,
            errors="backslashreplace",
            line_buffering=True,
        )
        setattr(sys, name, stream)
        _installed.append((queue, stream))
    if faulthandler.is_enabled():
        _let_crashes_end()
    atexit.register(last_words)


def _let_crashes_end() -> None:
    """Have faulthandler write to standard error without waiting: a process that crashes would never be dead."""
    with suppress(OSError):  # a socket, or no /proc: it stays as it is
        # Opened anew: to make a descriptor non-blocking concerns all who share it.
        again = os.open("/proc/self/fd/2", os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY)
        faulthandler.enable(file=again)


def standard_error() -> OutputQueue | None:
    """The queue behind sys.stderr; None where there is none."""
    raw = getattr(sys.stderr, "buffer", None)
    return raw.queue if isinstance(raw, _Stream) else None


def dropped_lines() -> int:
    """How many lines of this process nobody could read, so far."""
    return sum(queue.dropped for queue, _ in _installed)


def last_words() -> None:
    """Wait a moment until what was said is written. Before an end of the process that asks nobody."""
    until = monotonic() + LAST_WORDS_S
    for queue, stream in _installed:
        stream.flush()  # a line that was not ended
        queue.drain(max(0.0, until - monotonic()))


def _lines(data: bytes) -> int:
    return data.count(b"\n") or 1
