"""How to call this program from the user's shell: what `demo` and `dev` print is meant to be copied."""

import sys
from pathlib import Path
from shlex import quote
from shutil import which


def program() -> str:
    """`dispatcher` where the shell finds this one, else its path: `.venv/bin/dispatcher` in a checkout."""
    ours = Path(sys.executable).with_name("dispatcher")
    found = which("dispatcher")
    if found and Path(found).absolute() == ours:
        return "dispatcher"
    if not ours.exists():
        return f"{quote(sys.executable)} -m dispatcher"
    here = Path.cwd()
    if ours.parent == here:  # a bare name would be looked for on the PATH
        return "./dispatcher"
    return quote(str(ours.relative_to(here) if ours.is_relative_to(here) else ours))
