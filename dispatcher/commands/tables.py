"""Tables for a person: aligned, and on a terminal no wider than it is. Piped, nothing is cut off."""

import json
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from textwrap import fill

import click
from rich.cells import cell_len, set_cell_size

GAP = "  "
LEAST = 8  # the narrowest that a column is cut to


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """Print a head and rows. `right`: columns of numbers. On a terminal the widest columns are cut until all fit."""
    lines = [[plain(each) for each in row] for row in (columns, *rows)]
    widths = [max(cell_len(line[place]) for line in lines) for place in range(len(columns))]
    terminal = sys.stdout.isatty()
    if terminal:
        widths = fitted(widths, shutil.get_terminal_size().columns)
    for number, line in enumerate(lines):
        cells = [
            _cell(text, width, columns[at] in right) for at, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        text = GAP.join(cells).rstrip()
        click.echo(click.style(text, bold=True) if terminal and not number else text)


def fitted(widths: Sequence[int], width: int) -> list[int]:
    """The widths of columns that fit in `width` together: the widest are cut first, none below LEAST."""
    left = list(widths)
    while sum(left) + len(GAP) * (len(left) - 1) > width and max(left) > LEAST:
        left[left.index(max(left))] -= 1
    return left


def show_facts(facts: Sequence[tuple[str, object]]) -> None:
    """One `name: value` a line, the values aligned."""
    longest = max((len(name) for name, _ in facts), default=0) + 1
    for name, value in facts:
        click.echo(f"{name + ':':<{longest}} {plain(value)}".rstrip())


def say(text: str, *, indent: str = "", colour: str | None = None, err: bool = False) -> None:
    """One line; on a terminal in its colour, and wrapped by words to its width. Piped, a line stays one."""
    terminal = (sys.stderr if err else sys.stdout).isatty()
    if terminal:
        width, deeper = shutil.get_terminal_size().columns, f"{indent}    "
        text = fill(text, width, initial_indent=indent, subsequent_indent=deeper, break_long_words=False,
                    break_on_hyphens=False)  # fmt: skip
    else:
        text = indent + text
    click.echo(click.style(text, fg=colour) if colour and terminal else text, err=err)


def plain(value: object) -> str:
    """On one line, and without what would steer a terminal."""
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value)
    return "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in text)


def span(seconds: float) -> str:
    """How long, in words: 7 s, 12 min, 3 h, 2 d."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:.0f} d"


def ago(moment: str | None) -> str | None:
    """How long ago, or in how long, of an RFC 3339 time; None stays None."""
    if moment is None:
        return None
    seconds = (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    return f"{span(seconds)} ago" if seconds >= 0 else f"in {span(-seconds)}"


def _cell(text: str, width: int, right: bool) -> str:
    if cell_len(text) > width:
        text = set_cell_size(text, width - 1) + "…"
    padding = " " * (width - cell_len(text))
    return padding + text if right else text + padding
