"""How long a test may take: `timeout` in pyproject.toml, or its mark `timeout`, in seconds.

pytest-timeout breaks into a test by a signal. On an async one that only leaves the event loop: the test stays where it
was, in the task that its fixtures end in too, and the run waits for it without end. So an async test is cancelled from
within. What not even that ends (a blocked thread, a fixture) ends its worker: `faulthandler_timeout` in pyproject.toml.
"""

import asyncio
import functools
from collections.abc import Iterator
from inspect import iscoroutinefunction
from typing import Any

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item) -> bool | None:
    """No signal for an async test: True says that its timer is set."""
    return True if isinstance(item, pytest.Function) and iscoroutinefunction(item.obj) else None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    test = pyfuncitem.obj
    if iscoroutinefunction(test) and not hasattr(test, "hypothesis"):
        pyfuncitem.obj = _limited(test, limit_s(pyfuncitem))
    return (yield)


def limit_s(item: pytest.Item) -> float:
    """What this test may take, in seconds."""
    mark = item.get_closest_marker("timeout")
    return float(mark.args[0] if mark else item.config.getini("timeout"))


def _limited(test: Any, seconds: float) -> Any:
    @functools.wraps(test)
    async def limited(**arguments: Any) -> None:
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                await test(**arguments)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise AssertionError(
                f"the test took more than {seconds:g} s; the lines above say where it waited"
            ) from error

    return limited
