"""Single keys of a terminal, without Enter. Ctrl-C stays a signal."""

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

Descriptor = int


@contextmanager
def single_keys() -> Iterator[Descriptor | None]:
    """The terminal's descriptor while keys come one by one; None where standard input is no terminal."""
    if sys.stdin is None or not sys.stdin.isatty():
        yield None
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        yield terminal
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def pressed(terminal: Descriptor | None, patience_s: float) -> str:
    """The keys that came within `patience_s` seconds; "" when none did."""
    ready, _, _ = select.select([] if terminal is None else [terminal], [], [], patience_s)
    return os.read(terminal, 100).decode(errors="replace").lower() if ready and terminal is not None else ""
