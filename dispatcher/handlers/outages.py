"""Which exceptions of a handler mean that a server it needs is away: those that are known, and those that it names."""

import inspect
from collections.abc import Callable

from dispatcher.core.outages import is_outage

Outages = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]


def check(outages: object) -> str | None:
    """What is wrong with a value given as outages, or None."""
    call = getattr(outages, "__call__", None)  # noqa: B004 -- an object whose __call__ is async
    if inspect.iscoroutinefunction(outages) or inspect.iscoroutinefunction(call):
        return "outages is a coroutine function, which nobody would await: write `def`"
    each = outages if isinstance(outages, tuple) else (outages,)
    if callable(outages) or all(isinstance(one, type) and issubclass(one, BaseException) for one in each):
        return None
    return (
        "outages must be an exception class, a tuple of them, or a function that takes an exception and returns a bool"
    )


def meets(outages: Outages, error: BaseException) -> bool:
    """Whether the error is one of these outages, or one that is known. Of a group each error has to be one."""
    if is_outage(error):
        return True
    if isinstance(outages, type | tuple):
        if isinstance(error, BaseExceptionGroup) and not isinstance(error, outages):
            return all(meets(outages, each) for each in error.exceptions)
        return isinstance(error, outages)
    return bool(outages(error))
