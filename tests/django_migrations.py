"""Writes a Django migration for each file of sql/migrations that has none: `python -m tests.django_migrations`.

`make schema` does so.
"""

import re
from pathlib import Path

from dispatcher.infra import sqlfiles

FOLDER = Path(__file__).parents[1] / "dispatcher" / "client" / "django" / "migrations"
TEXT = '''"""Runs sql/migrations/{name}.sql. Written by `make schema`."""

from dispatcher.client.django.operations import run_file

Migration = run_file("{name}", after="{after}")
'''


def files() -> list[Path]:
    """The migrations, first to last."""
    return sorted(FOLDER.glob("[0-9]*.py"))


def covered() -> list[str]:
    """The files of sql/migrations that they run, in order."""
    return [name for path in files() for name in re.findall(r'run_file\("(\w+)"', path.read_text(encoding="utf-8"))]


def main() -> None:
    """Write what is missing."""
    for migration in sqlfiles.migrations():
        if migration.name not in covered():
            last = files()[-1].stem
            number = int(last[:4]) + 1
            text = TEXT.format(name=migration.name, after=last)
            (FOLDER / f"{number:04}_{migration.name}.py").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
