"""Which handlers an application has, how each is called, and one plain line for what is wrong with them."""

import functools
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dispatcher.core.errors import Misconfigured
from dispatcher.handlers import Event, Retry, handler, registry
from dispatcher.handlers.load import load
from tests.support.handlers import MakeModule


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to write modules in, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known, registered = set(sys.modules), dict(registry.REGISTERED)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]
    registry.REGISTERED.clear()
    registry.REGISTERED.update(registered)


def problem(where: str) -> str:
    with pytest.raises(Misconfigured) as caught:
        load(where)
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.exit_code == 2
    return text


def one(payload: Any) -> None: ...
def two(payload: Any, event: Event) -> None: ...
def with_default(payload: Any, retries: int = 3) -> None: ...
def named(payload: Any, event: Event | None = None) -> None: ...
def any_number(*args: Any) -> None: ...
async def on_the_loop(payload: Any) -> None: ...


class Called:
    async def __call__(self, payload: Any, event: Event) -> None: ...


@pytest.mark.parametrize(
    ("function", "takes_event", "is_async"),
    [
        (one, False, False),
        (two, True, False),
        (with_default, False, False),
        (named, True, False),
        (any_number, False, False),
        (on_the_loop, False, True),
        (Called(), True, True),
        (functools.partial(with_default, retries=1), False, False),
        (print, False, False),
    ],
)
def test_how_it_is_called(handlers_module: MakeModule, function: Any, takes_event: bool, is_async: bool) -> None:
    handler = load(handlers_module({"a": function}))["a"]
    assert (handler.takes_event, handler.on_the_loop) == (takes_event, is_async)


def test_a_registry_and_a_dict_in_the_working_directory(project: Path) -> None:
    (project / "shop.py").write_text(
        "from dispatcher.handlers import handler\n"
        "@handler('a', 'b')\ndef f(payload): ...\n"
        "HANDLERS = {'c': f}\nOTHERS = {'d': f}\n"
    )
    assert set(load("shop")) == {"a", "b", "c"}
    assert set(load("shop:OTHERS")) == {"d"}


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("HANDLERS = {'a': missing}\n", "shop cannot be imported: NameError: name 'missing' is not defined ("),
        ("def f(:\n", "shop cannot be imported: SyntaxError: invalid syntax ("),
        ("import nowhere.to_be_found\n", "shop cannot be imported: ModuleNotFoundError: No module named 'nowhere' ("),
        ("raise SystemExit(3)\n", "shop cannot be imported: SystemExit: 3 ("),
        ("", "it has no handlers; it needs a dict HANDLERS"),
        ("HANDLERS = [1]\n", "HANDLERS must be a dict of event type to function, it is of type list"),
        ("HANDLERS = {1: print}\n", "1 is no event type; it must be text"),
        ("HANDLERS = {'a': 'b'}\n", "the handler of 'a' must be a function, it is of type str"),
        ("def f(): ...\nHANDLERS = {'a': f}\n", "shop.f, the handler of 'a', must take the payload"),
        ("def f(a, b, c): ...\nHANDLERS = {'a': f}\n", "shop.f, the handler of 'a', must take the payload"),
        ("def f(a, *, b): ...\nHANDLERS = {'a': f}\n", "shop.f, the handler of 'a', must take the payload"),
        ("def f(a):\n  yield\nHANDLERS = {'a': f}\n", "shop.f, the handler of 'a', is a generator"),
        (
            "from dispatcher.handlers import handler\n@handler('a')\ndef f(p): ...\ndef g(p): ...\nHANDLERS = {'a': g}",
            "two handlers for 'a', shop.g and shop.f",
        ),
        (
            "from dispatcher.handlers import handler\n@handler('a')\ndef f(a): ...\n@handler('a')\ndef g(a): ...\n",
            "two handlers for 'a': shop.f and shop.g",
        ),
        ("from dispatcher.handlers import handler\n@handler\ndef f(a): ...\n", "@handler needs the event types"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(project: Path, source: str, wanted: str) -> None:
    (project / "shop.py").write_text(source)
    assert wanted in problem("shop")


def test_what_is_not_there(project: Path) -> None:
    assert "there is no module shop, neither in" in problem("shop.handlers")
    (project / "shop.py").write_text("")
    assert "shop has no MINE" in problem("shop:MINE")


def test_a_handler_is_still_the_function(project: Path) -> None:
    assert handler("a")(one) is one


@pytest.mark.parametrize("after", [-1, float("nan"), float("inf"), timedelta(days=-1)])
def test_retry_refuses_a_time_that_is_none(after: Any) -> None:
    with pytest.raises(ValueError, match="Retry"):
        Retry(after=after)


def test_retry_takes_seconds_and_timedeltas() -> None:
    assert [Retry(after=each).after_s for each in (0, 1.5, timedelta(minutes=1), None)] == [0.0, 1.5, 60.0, None]
