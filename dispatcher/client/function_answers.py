"""What the function of a consumer and a store may answer, and how it fails: the rest would lose events unseen."""

import asyncio
import concurrent.futures
import inspect
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import contextmanager
from typing import Any


class WrongAnswer(TypeError):
    """The program is wrong, not the event: run() ends, and nothing is acknowledged."""


class FunctionRefused(Exception):
    """The function returned False, NotImplemented or an exception: the event failed."""


class FunctionCancelled(Exception):
    """Something in the function was cancelled, and nobody cancelled run(): the event failed."""


class FunctionTooSlow(Exception):
    """The function did not end in its time, and was cancelled: the event failed."""


class FunctionBroke(Exception):
    """The function raised what is no Exception, such as the panic of a library in Rust: the event failed."""


_END_RUN = (KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError)


@contextmanager
def failing() -> Iterator[None]:
    """Whatever the block raises is an Exception, or means to end run(). Raises FunctionBroke."""
    try:
        yield
    except BaseException as error:
        inside = error.subgroup(_END_RUN) if isinstance(error, BaseExceptionGroup) else None
        if isinstance(error, (Exception, *_END_RUN)) or inside is not None:
            raise
        raise FunctionBroke(type(error).__name__) from error


def check_answer(answer: object) -> None:
    """Raise WrongAnswer when the work is not done yet, and FunctionRefused when the answer says that it failed."""
    if inspect.isawaitable(answer) or isinstance(answer, Generator | AsyncGenerator | concurrent.futures.Future):
        _drop(answer)
        raise WrongAnswer(
            f"the function returned a {type(answer).__name__}: its work is not done, so the event is not acknowledged. "
            "Await it in an AsyncConsumer, or wait for its result"
        )
    if answer is False or answer is NotImplemented or isinstance(answer, BaseException):
        raise FunctionRefused("the function returned False, NotImplemented or an exception: raise one instead")


def check_awaitable(answer: Any) -> Any:
    """The answer of an AsyncConsumer's function, if it can be awaited. Raises WrongAnswer."""
    if not inspect.isawaitable(answer):
        _drop(answer)
        raise WrongAnswer(
            f"the function returned a {type(answer).__name__}, which cannot be awaited: write `async def`, or use "
            "Consumer. Its event is not acknowledged and comes again"
        )
    return answer


def check_known(answer: object) -> bool:
    """What a store's `has` says. Raises WrongAnswer unless it is true or false: a coroutine would count as true."""
    if isinstance(answer, bool | int):
        return bool(answer)
    _drop(answer)
    raise WrongAnswer(f"dedup: has() answered with a {type(answer).__name__}: it must be True or False")


def check_added(answer: object) -> None:
    """Raise WrongAnswer when a store's `add` has not happened yet."""
    if inspect.isawaitable(answer):
        _drop(answer)
        raise WrongAnswer(f"dedup: add() answered with a {type(answer).__name__}, which nobody would await")


def _drop(answer: Any) -> None:
    if inspect.iscoroutine(answer):
        answer.close()  # or Python warns that it was never awaited
