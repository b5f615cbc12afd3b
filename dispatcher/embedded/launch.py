"""Runs as a script between us and a server: gives up root, ties its life to our own, then becomes the server.

    python -I -S launch.py PARENT_PID DEATH_SIGNAL UID GID PROGRAM ARGUMENT...

A script rather than a `preexec_fn`, which runs Python in a forked copy of a process that may have threads. It uses the
standard library only, and imports it before it gives up root: the new user may not be allowed to read it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Never returns: becomes PROGRAM, or exits."""
    parent, death_signal, uid, gid = map(int, arguments[:4])
    program = arguments[4:]
    libc = ctypes.CDLL(None)
    if os.geteuid() != uid:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        # After the change of user, which clears it. Other systems have no such thing: there only atexit stops a server.
        libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        if os.getppid() != parent:
            sys.exit("the process that started this server has died")
    # Python ignores these two, and what is ignored stays ignored in the program.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.execv(program[0], program)  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
