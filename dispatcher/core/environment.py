"""Reads what we are given in UTF-8, and keeps variables that are meant for other programs from our libraries."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


def in_utf8(text: str) -> str:
    """An argument or a variable as it was written, in UTF-8; in a locale of another encoding Python read it as that."""
    try:
        return os.fsencode(text).decode()
    except UnicodeError:
        return text


@contextmanager
def without(*prefixes: str) -> Iterator[None]:
    """Take the variables that begin so out of the environment: for the import of a library that reads them then."""
    taken = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(prefixes)}
    try:
        yield
    finally:
        os.environ.update(taken)


def take_away(*names: str) -> list[str]:
    """Take these variables out of the environment for good; returns those that were there."""
    return [name for name in names if os.environ.pop(name, None) is not None]
