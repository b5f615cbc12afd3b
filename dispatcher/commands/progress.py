"""How far a long command is: a bar for people, a line now and then for logs. Always on standard error."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click


@contextmanager
def rows_progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, a line about every tenth elsewhere; both on standard error."""
    if sys.stderr.isatty():
        with click.progressbar(length=total, label=label, file=sys.stderr) as bar:
            yield bar.update
        return
    done = 0

    def line(rows: int) -> None:
        nonlocal done
        tenth, done = done * 10 // total, done + rows
        if done * 10 // total > tenth:
            click.echo(f"{done} of {total} rows", err=True)

    yield line
