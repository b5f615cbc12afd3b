"""The progress of a long command, on standard error: a bar on a terminal, else a line at each tenth."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from dispatcher.core.counted import counted


@contextmanager
def rows_progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function that takes the number of rows done since its last call."""
    if sys.stderr.isatty():
        with click.progressbar(length=total, label=label, file=sys.stderr) as bar:
            yield bar.update
        return
    done = 0

    def line(rows: int) -> None:
        nonlocal done
        tenth, done = done * 10 // total, done + rows
        if done * 10 // total > tenth:
            click.echo(f"{done:,} of {counted(total, 'row')}", err=True)

    yield line
