"""Reads a runbook: its sections, their blocks of commands and SQL, and what stands between backticks in the text."""

import re
import shlex
from dataclasses import dataclass, field

SQL_VERBS = ("SELECT", "UPDATE", "INSERT", "DELETE", "CALL", "VACUUM", "ALTER")


@dataclass(slots=True)
class Section:
    """A heading and what is under it, up to the next heading of any level."""

    heading: str
    blocks: list[tuple[str, str]] = field(default_factory=list)  # language, text
    inline: list[str] = field(default_factory=list)


def sections(text: str) -> list[Section]:
    """All sections, first to last."""
    found = [Section("")]
    for fence, language, block, heading, code in re.findall(
        r"^(```)(\w*)\n(.*?)^```$|^#+ ([^\n]+)$|`([^`]+)`", text, re.MULTILINE | re.DOTALL
    ):
        if fence:
            found[-1].blocks.append((language, block))
        elif heading:
            found.append(Section(heading))
        else:
            found[-1].inline.append(" ".join(code.split()))
    return found


def statements(sql: str) -> list[str]:
    """The statements of a block, without what is only a comment. None of ours has a semicolon inside."""
    bare = re.sub(r"^\s*--.*$", "", sql, flags=re.MULTILINE)
    return [each.strip() for each in bare.split(";") if each.strip()]


def commands(shell: str) -> list[tuple[dict[str, str], list[str]]]:
    """The commands of a block: variables set before it, and its words."""
    found = []
    for line in shell.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        env: dict[str, str] = {}
        while words and re.match(r"[A-Z_]+=", words[0]):
            name, _, value = words.pop(0).partition("=")
            env[name] = value
        if words:
            found.append((env, words))
    return found
