"""What a process that a handler forks must not keep: our sockets, and our way of hearing signals.

A fork has a copy of each descriptor. While it lives no socket of ours closes, though we were killed: Postgres would
take our sessions for alive, with the lock that says that this dispatcher is, and our port would stay taken. A program
that is started (exec) gets none of them: Python and libpq mark them so.

Of signals it has a copy of asyncio's handler, which does nothing, and of the pipe by which our event loop is told of
them: a SIGTERM to the child would not end the child, and would stop us. So these signals do in the child what they do
by default. They are blocked while we fork: `Process.start()` and `terminate()` at once is faster than the child.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

_ours: WeakKeyDictionary[Any, Callable[[Any], Iterable[int]]] = WeakKeyDictionary()

_heard: frozenset[signal.Signals] = frozenset()  # by our event loop
_blocked_before = threading.local()  # `numbers`: what the thread that forks had blocked before


@contextlib.contextmanager
def by_default_in_children(numbers: Collection[signal.Signals]) -> Iterator[None]:
    """While our event loop hears these signals they do in every child that is forked what they do by default."""
    global _heard
    _heard = frozenset(numbers)
    try:
        yield
    finally:
        _heard = frozenset()


def not_for_children(owner: Any, descriptors: Callable[[Any], Iterable[int]]) -> None:
    """Close these descriptors of `owner` in every child that is forked while `owner` is there."""
    _ours[owner] = descriptors


def _block() -> None:
    _blocked_before.numbers = signal.pthread_sigmask(signal.SIG_BLOCK, _heard)


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _blocked_before.numbers)


def _let_go() -> None:
    """In the child. Its only thread is the main one, whichever forked."""
    if _heard:
        signal.set_wakeup_fd(-1)
        for number in _heard:
            signal.signal(number, signal.SIG_DFL)
    _close()
    _unblock()


def _close() -> None:
    """The numbers stay taken: what still has one must not reach what the child opens next."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for owner, descriptors in list(_ours.items()):
        with contextlib.suppress(Exception):  # closed already
            for descriptor in descriptors(owner):
                os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_let_go)
