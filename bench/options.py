"""The options every scenario takes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
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


def common(command: F) -> F:
    """Adds them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
