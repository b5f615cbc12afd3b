"""Reads README.md and docs/: sections, tables, code. For the tests that hold them to what the program does."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(heading: str, text: str = README) -> str:
    """What stands under a heading, up to the next one of any level."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", _masked(text), re.MULTILINE | re.DOTALL)
    if found is None:
        raise LookupError(f"no section {heading!r}")
    return text[found.start(1) : found.end(1)]


def blocks(heading: str, language: str, text: str = README) -> list[str]:
    """The blocks of that language under a heading."""
    found = re.findall(r"^```(.*?)\n(.*?)^```$", section(heading, text), re.MULTILINE | re.DOTALL)
    return [block for its_language, block in found if its_language == language]


def code(heading: str, language: str, text: str = README) -> str:
    """The one block of that language under a heading."""
    [block] = blocks(heading, language, text)
    return block


def page(path: str) -> str:
    """A page of the site: its path below docs/."""
    return (ROOT / "docs" / path).read_text(encoding="utf-8")


def table(heading: str, text: str = README) -> list[list[str]]:
    """The rows of the tables under a heading, without their heads: cells as they are written."""
    lines = [line for line in section(heading, text).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    heads = {number for number, row in enumerate(cells) if set("".join(row)) <= set("-| :")}
    return [row for number, row in enumerate(cells) if number not in heads and number + 1 not in heads]


def _masked(text: str) -> str:
    """The same text, with `#` in code blocks made harmless."""
    return re.sub(r"^```.*?^```$", lambda block: block[0].replace("#", "."), text, flags=re.MULTILINE | re.DOTALL)
