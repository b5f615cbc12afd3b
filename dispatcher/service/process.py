"""One error for a person to read, out of the task groups' wrapping."""

from collections.abc import Iterator
from contextlib import contextmanager

from dispatcher.core.errors import DispatcherError


@contextmanager
def one_error() -> Iterator[None]:
    """Let the one error a person should read out; anything else comes as it was."""
    try:
        yield
    except BaseExceptionGroup as group:
        for error in _leaves(group):
            if isinstance(error, DispatcherError):
                raise error from None
        raise


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
