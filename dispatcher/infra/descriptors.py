"""The three standard file descriptors: none of them may be one of our sockets.

A program that is started with one of them closed (`2>&-`, some supervisors) gives its number to the next thing that it
opens: what C code, or what a handler runs, then writes to standard error goes into Postgres's or Redis's connection.
Python has None in place of its stream, and whoever asks that whether it is a terminal ends with a traceback.
"""

import os
import sys


def open_closed_standard_streams() -> None:
    """Open /dev/null in place of those that are closed. Before anything else is opened."""
    for descriptor in range(3):  # upwards: open() takes the lowest that is free
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            stream = open(descriptor, "w" if descriptor else "r", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
