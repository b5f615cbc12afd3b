"""What a process that a handler forks must not keep: our sockets.

A fork has a copy of each descriptor. While it lives no socket of ours closes, though we were killed: Postgres would
take our sessions for alive, with the lock that says that this dispatcher is, and our port would stay taken. A program
that is started (exec) gets none of them: Python and libpq mark them so.
"""

import contextlib
import os
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

_ours: WeakKeyDictionary[Any, Callable[[Any], Iterable[int]]] = WeakKeyDictionary()


def not_for_children(owner: Any, descriptors: Callable[[Any], Iterable[int]]) -> None:
    """Close these descriptors of `owner` in every child that is forked while `owner` is there."""
    _ours[owner] = descriptors


def _let_go() -> None:
    """In the child. The numbers stay taken: what still has one must not reach what the child opens next."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for owner, descriptors in list(_ours.items()):
        with contextlib.suppress(Exception):  # closed already
            for descriptor in descriptors(owner):
                os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


os.register_at_fork(after_in_child=_let_go)
