"""The one place that polls: a condition with a deadline, and what was seen last when it does not come true.

Where the product says what happens (the tap, a line of a child's log), a test waits for that instead.
"""

import asyncio
import time
from collections.abc import Callable
from inspect import isawaitable
from typing import Any

LOOK_EVERY_S = 0.02
PATIENCE_S = 50.0


class NeverCameTrue(AssertionError):
    """A condition did not come true before its deadline."""


async def until(look: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
    """Look again and again until the answer is true; returns it. `look` may be a coroutine function.

    Raises NeverCameTrue with the last answer."""
    return await _look(look, bool, what, timeout_s)


async def becomes(
    look: Callable[[], Any], expected: object, what: str = "what is looked at", timeout_s: float = PATIENCE_S
) -> None:
    """Look again and again until the answer is `expected`. Raises NeverCameTrue with the last answer."""
    await _look(look, lambda answer: bool(answer == expected), f"{what} becomes {expected!r}", timeout_s)


async def _look(look: Callable[[], Any], enough: Callable[[Any], bool], what: str, timeout_s: float) -> Any:
    deadline = time.monotonic() + timeout_s
    while True:
        answer = look()
        if isawaitable(answer):
            answer = await answer
        if enough(answer):
            return answer
        if time.monotonic() > deadline:
            raise NeverCameTrue(f"{what}: not in {timeout_s:g} s; last seen: {answer!r}")
        await asyncio.sleep(LOOK_EVERY_S)


async def caught_up() -> None:
    """What the running loop was given until now has run: what threads handed over, the first steps of tasks."""
    reached = asyncio.Event()
    asyncio.get_running_loop().call_soon(reached.set)
    await reached.wait()


async def pass_time(seconds: float) -> None:
    """Let a fault last so long. Only for faults that are a length of time: a pause of 20 s, an outage of 30 s."""
    await asyncio.sleep(seconds)
