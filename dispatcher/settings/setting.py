"""One line of the table of settings: where it comes from, what it must be, what it does."""

import sys
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field
from enum import Enum
from typing import Any

from dispatcher.settings.kinds import Kind

_MARK = "setting"


class Section(Enum):
    """What a setting is about: the reference and `dispatcher run --help` have these sections, in this order."""

    BASICS = "What it does"
    POSTGRES = "Connection to Postgres"
    STREAM = "Connection to Redis, and the stream"
    PACE = "Pace"
    FAILURES = "Failures of an event"
    HANDLERS = "Handlers in Python"
    RETENTION = "Retention"
    HTTP = "HTTP"
    LOG = "Log"


@dataclass(frozen=True, slots=True)
class Alias:
    """Another flag for a setting. `convert` makes the setting's value of the flag's."""

    flag: str
    convert: Callable[[object], object]
    help: str
    metavar: str | None = None  # None: the flag takes no value


@dataclass(frozen=True, slots=True)
class Setting:
    """What a field of `Settings` carries beside its type and default. Its flag is its attribute, with dashes."""

    section: Section
    env: tuple[str, ...]  # the first that is set counts; the first is shown; none: it has only its alias
    kind: Kind
    help: str
    alias: Alias | None = None
    default_text: str | None = None  # when the default is not one fixed value


def setting(
    section: Section,
    env: str,
    kind: Kind,
    default: Any,
    help: str,
    *,
    also_env: str = "",
    alias: Alias | None = None,
    default_text: str | None = None,
) -> Any:
    """One field of the table. `default`: `...` where it must be set, a function where it depends."""
    mark = Setting(section, tuple(filter(None, (env, also_env))), kind, help, alias, default_text)
    if callable(default):
        return field(default_factory=default, repr=not kind.secret, metadata={_MARK: mark})
    return field(default=MISSING if default is ... else default, repr=not kind.secret, metadata={_MARK: mark})


def is_setting(field: Field[Any]) -> bool:
    return _MARK in field.metadata


def setting_of(field: Field[Any]) -> Setting:
    """What `setting()` put on a field."""
    mark: Setting = field.metadata[_MARK]
    return mark


def is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def flag_of(attribute: str) -> str:
    return "--" + attribute.replace("_", "-")


def unchanged(value: object) -> object:
    """For an alias that is only another name."""
    return value


def negated(value: object) -> object:
    """For an alias that says the opposite."""
    return not value


def terminal_format() -> str:
    """Text for a person, JSON for a machine."""
    return "text" if sys.stderr is not None and sys.stderr.isatty() else "json"
