"""SIGTERM and SIGINT from the first line of the program on, until the service watches for them itself.

The kernel throws a signal away that the first process of a container has no handler for, and a container's command is
that process: a stop in the first second, or while a module of handlers is imported, would be lost, and rows be taken
afterwards. Nothing was taken yet, so the process ends at once. Imported before everything else: imports nothing heavy.
"""

import os
import select
import signal
from types import FrameType

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


class _End:
    """A handler of signals: ends the process, whatever it is doing. `code`: of the process."""

    def __init__(self, code: int, silent: bool = False) -> None:
        self._code = code
        self._silent = silent

    def __call__(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if not self._silent:
            _say(f"dispatcher: {f'stopped by {name} before it began' if self._code == 0 else f'ended by {name}'}")
        os._exit(self._code)


def end_on_signals(arguments: list[str]) -> None:
    """From now on a signal ends the process. `arguments`: the command line without the program's name.

    With exit code 0 for `run`, which is meant to be stopped so; any other command did not do what it was called for.
    """
    stopped = arguments[:1] == ["run"]
    end_with(0 if stopped else TERMINATED, 0 if stopped else INTERRUPTED)


def end_with(terminated: int, interrupted: int, *, silent: bool = False) -> None:
    """From now on SIGTERM and SIGINT end the process with these exit codes. `silent`: somebody else says it."""
    signal.signal(signal.SIGTERM, _End(terminated, silent))
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # a shell's background
        signal.signal(signal.SIGINT, _End(interrupted, silent))
    # Whoever rotates logs or reloads services sends these to all alike; they would kill us in the middle of a batch.
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.SIG_IGN)


def stop_signals() -> list[signal.Signals]:
    """What asks a dispatcher that runs to stop: also a terminal that is closed, but not under nohup."""
    asked = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    return [number for number in asked if signal.getsignal(number) is not signal.SIG_IGN or number in asked[:2]]


def leave_interrupts_to_python() -> None:
    """From now on SIGINT raises KeyboardInterrupt, as ever: a command cleans up, or is asking a question."""
    if isinstance(signal.getsignal(signal.SIGINT), _End):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def ignore() -> None:
    """From now on SIGTERM and SIGINT do nothing: the stop that they ask for has been made."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _say(words: str) -> None:
    """To standard error, unless that could block."""
    try:
        if select.select([], [2], [], 0)[1]:
            os.write(2, f"{words}\n".encode())
    except OSError:  # closed by whoever started us, or nobody reads
        pass
