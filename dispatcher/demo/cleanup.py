"""Stops everything that a run started, however the run ends: an exit stack whose closing no signal interrupts."""

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from dispatcher.core.errors import DispatcherError, Misconfigured

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
RAISED_AGAIN_S = 1.0


class InterruptedRunError(DispatcherError):
    """SIGINT, SIGTERM or SIGHUP ended the run."""

    exit_code = 130


@contextlib.contextmanager
def ending_in_order() -> Iterator[contextlib.ExitStack]:
    """An exit stack that Ctrl-C, SIGTERM and SIGHUP close, once: while it closes they are ignored. Main thread only."""
    came: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        # Python drops what is raised in a destructor, a library what is raised below its `except Exception`: the run
        # would go on. So SIGALRM raises it again until the stack closes.
        signal.setitimer(signal.ITIMER_REAL, RAISED_AGAIN_S)
        name = signal.Signals(came[0]).name
        raise InterruptedRunError(f"ended by {name}; everything that was started has been stopped")

    before = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        with contextlib.ExitStack() as stack:
            try:
                yield stack
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                for number in SIGNALS:
                    signal.signal(number, signal.SIG_IGN)  # an impatient second Ctrl-C would leave a server running
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """Delay signals until the end of the block. A child started in it has them blocked. Main thread only."""
    came: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _frame: came.append(number)) for number in SIGNALS}
    # Blocking alone would not do: another thread would take the signal, and Python would run the handler in this one.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def leave_stopping_to_parent() -> None:
    """Call it in a child started under `signals_held_back`: it ignores Ctrl-C, because its parent stops it in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextlib.contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder, removed at the end. Raises Misconfigured when none can be made where TMPDIR says."""
    parent = os.environ.get("TMPDIR") or None  # given outright: tempfile would silently go elsewhere
    try:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        folder.chmod(0o711)  # Postgres, which will not run as root, must get through to its data
    except OSError as error:
        raise Misconfigured(
            f"cannot make a folder in {parent or tempfile.tempdir or 'any temporary folder'} ({error.strerror}): "
            "set TMPDIR to a folder you may write to"
        ) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
