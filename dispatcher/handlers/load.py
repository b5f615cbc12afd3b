"""Finds an application's handlers: imports the module and checks each handler. Each fault is one line."""

import importlib
import inspect
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dispatcher.core.decide import RetryPolicy
from dispatcher.core.errors import Misconfigured
from dispatcher.handlers.outages import Outages, check
from dispatcher.handlers.registry import LIMITS, NO_LIMITS, OUTAGES, REGISTERED, Handler, Limits, described

HandlersByType = Mapping[str, "LoadedHandler"]  # by event type


@dataclass(frozen=True, slots=True)
class LoadedHandler:
    """One handler, and how it is called."""

    function: Handler
    on_the_loop: bool  # async; else it gets a thread
    takes_event: bool
    outages: Outages = ()
    limits: Limits = NO_LIMITS

    def retry(self, usual: RetryPolicy) -> RetryPolicy:
        """The usual policy, with the number of attempts that this handler has of its own."""
        return usual if self.limits.attempts is None else replace(usual, max_attempts=self.limits.attempts)


def load(where: str) -> HandlersByType:
    """The handlers of `module` or `module:name`. Raises Misconfigured.

    Without a name: the dict HANDLERS of the module, if it has one, and what @handler registered. The module's OUTAGES
    are those of handlers that name none of their own.
    """
    module_name, _, name = where.partition(":")
    module = _imported(module_name)
    if name:
        if not hasattr(module, name):
            raise Misconfigured(f"DISPATCH_HANDLERS is {where!r}: {module_name} has no {name}")
        handlers = _as_dict(where, name, getattr(module, name))
    else:
        handlers = _as_dict(where, "HANDLERS", getattr(module, "HANDLERS", {}))
        for event_type, function in REGISTERED.items():
            if handlers.setdefault(event_type, function) is not function:
                raise Misconfigured(
                    f"DISPATCH_HANDLERS is {where!r}: two handlers for {event_type!r}, "
                    f"{described(handlers[event_type])} and {described(function)}"
                )
    if not handlers:
        raise Misconfigured(
            f"DISPATCH_HANDLERS is {where!r}: it has no handlers; it needs a dict HANDLERS of event type to function, "
            'or functions under @handler("event.type") from dispatcher.handlers'
        )
    outages = getattr(module, "OUTAGES", ())
    if wrong := check(outages):
        raise Misconfigured(f"DISPATCH_HANDLERS is {where!r}: {module_name}.OUTAGES: {wrong}")
    loaded = {event_type: _loaded(where, event_type, function) for event_type, function in handlers.items()}
    for event_type, handler in loaded.items():
        registered = REGISTERED.get(event_type) is handler.function
        own = OUTAGES.get(event_type, ()) if registered else ()
        limits = LIMITS.get(event_type, NO_LIMITS) if registered else NO_LIMITS
        loaded[event_type] = replace(handler, outages=own or outages, limits=limits)
    return loaded


def _imported(name: str) -> Any:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` has it: a project need not be installed
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise Misconfigured(
                f"DISPATCH_HANDLERS is {name!r}: there is no module {error.name}, neither in {Path.cwd()} nor installed"
            ) from None
        raise _failed(name, error) from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever it does when imported, SystemExit included
        raise _failed(name, error) from None


def _failed(name: str, error: BaseException) -> Misconfigured:
    """The error of an import in one line: its class, message, and the line in the application's code."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if len(frames) > 1 else ""
    if isinstance(error, SyntaxError) and error.filename:
        where = f" ({error.filename}:{error.lineno})"
        error = type(error)(error.msg)
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return Misconfigured(f"DISPATCH_HANDLERS: {name} cannot be imported: {text}{where}")


def _as_dict(where: str, name: str, found: object) -> dict[str, Handler]:
    if not isinstance(found, Mapping):
        raise Misconfigured(
            f"DISPATCH_HANDLERS is {where!r}: {name} must be a dict of event type to function, "
            f"it is of type {type(found).__name__}"
        )
    return dict(found)


def _loaded(where: str, event_type: object, function: object) -> LoadedHandler:
    wrong = f"DISPATCH_HANDLERS is {where!r}: "
    if not isinstance(event_type, str) or not event_type:
        raise Misconfigured(f"{wrong}{event_type!r} is no event type; it must be text")
    if not callable(function):
        raise Misconfigured(
            f"{wrong}the handler of {event_type!r} must be a function, it is of type {type(function).__name__}"
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise Misconfigured(
            f"{wrong}{described(function)}, the handler of {event_type!r}, is a generator: none of it would run; "
            "it must not yield"
        )
    on_the_loop = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 -- an object whose __call__ is async
    )
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C: it takes what it takes
        return LoadedHandler(function, on_the_loop, takes_event=False)
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    needed = [each for each in positional if each.default is each.empty]
    others = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY and each.default is each.empty]
    any_number = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    if len(needed) > 2 or others or (not positional and not any_number):
        raise Misconfigured(
            f"{wrong}{described(function)}, the handler of {event_type!r}, must take the payload, "
            "and the event too if it likes: def handle(payload, event)"
        )
    # A second parameter with a default is the application's own, unless its name says otherwise.
    takes_event = len(needed) == 2 or (len(positional) > 1 and positional[1].name == "event")
    return LoadedHandler(function, on_the_loop, takes_event)
