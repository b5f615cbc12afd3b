"""The options that scenarios share, and what is measured by them."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bench.servers import Rig, rig

Scenario = Callable[..., None]
Decorator = Callable[[Scenario], Scenario]

ROWS = click.IntRange(1_000, 20_000_000)
ROUNDS = click.IntRange(1, 50)
_WHERE = (
    click.option("--database-url", help="A Postgres to measure, its outbox empty.  [default: one of our own]"),
    click.option("--redis-url", help="A Redis or Valkey to measure.  [default: one of our own]"),
    click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting of the dispatcher."),
    click.option(
        "--reports",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path(__file__).parent / "reports",
        help="Where the report goes.  [default: bench/reports]",
    ),
)


@dataclass(frozen=True, slots=True)
class Where:
    """What a scenario measures, and the folder of its report."""

    database_url: str | None
    redis_url: str | None
    settings: tuple[str, ...]
    reports: Path

    def rig(self, *settings: str, **options: Any) -> AbstractContextManager[Rig]:
        """The servers; `settings` (NAME=VALUE) of the scenario's own give way to those of the command line."""
        return rig(self.database_url, self.redis_url, (*settings, *self.settings), **options)


def common(scenario: Scenario) -> Scenario:
    """Adds the options that every scenario takes; it gets them as `where`."""

    @functools.wraps(scenario)
    def gathered(
        *, database_url: str | None, redis_url: str | None, settings: tuple[str, ...], reports: Path, **own: Any
    ) -> None:
        scenario(where=Where(database_url, redis_url, settings, reports), **own)

    for option in reversed(_WHERE):
        gathered = option(gathered)
    return gathered


def rows(default: int, what: str = "Each leg.") -> Decorator:
    """Adds --rows."""
    return click.option("--rows", type=ROWS, default=default, show_default=True, help=what)


def backlogs(*default: int) -> Decorator:
    """Adds --rows, which may be given several times."""
    what = "The backlog. May be given several times."
    return click.option("--rows", type=ROWS, multiple=True, default=default, show_default=True, help=what)


def rounds(default: int, what: str = "Times each leg is run.") -> Decorator:
    """Adds --rounds."""
    return click.option("--rounds", type=ROUNDS, default=default, show_default=True, help=what)
