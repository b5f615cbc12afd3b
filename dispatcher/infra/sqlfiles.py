"""Finds the SQL files: statements, those of dispatcher/client, migrations, the doorbell trigger.

They lie beside the package in a checkout (sql/, triggers/) and inside it in a wheel (_sql, _triggers, put there by
hatchling's force-include).
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dispatcher.core.errors import Misconfigured

_LIKE = re.compile(r"^--like: (\w+), from '([^']*)', before '([^']*)'$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class MigrationFile:
    """One file of sql/migrations. `name` is the file's name without `.sql`; names sort in the order to apply them."""

    name: str
    sql: str


@cache
def load(
    name: str,
    *,
    filtered: bool = False,
    split: bool = False,
    sharded: bool = False,
    left_out: bool = False,
    handlers: bool = False,
    ordered: bool = False,
    owned: bool = False,
) -> str:
    """The statement of sql/statements/<name>.sql, with the lines whose marker (`--filtered: ` ...) is wanted.

    `filtered`: those, else `unfiltered`. `split`, `left_out`, `handlers`: those too. `sharded`: those, else those
    marked `single`. `ordered`: those, else `unordered`. `owned`: those, else `any`.
    `--like: claim, from 'A', before 'B'` stands for the part of claim.sql from A up to B, to its end if B is nowhere
    in it. Of the lines that are comments only the first is left, which names it: behind a pooler the text is sent, and
    looked through for parameters, each time.
    """
    text = _LIKE.sub(_part, _text("statements", name))
    markers = {
        "ordered": ordered,
        "unordered": not ordered,
        "split": split,
        "filtered": filtered,
        "unfiltered": not filtered,
    }
    markers |= {"sharded": sharded, "single": not sharded, "left_out": left_out, "handlers": handlers}
    markers |= {"owned": owned, "any": not owned}
    for marker, wanted in markers.items():
        text = re.sub(rf"^ *--{marker}: " + ("" if wanted else r".*\n"), "", text, flags=re.MULTILINE)
    first, _, rest = text.partition("\n")
    return first + "\n" + re.sub(r"^ *--.*\n", "", rest, flags=re.MULTILINE)


def _part(like: re.Match[str]) -> str:
    name, start, end = like.groups()
    _, found, rest = _text("statements", name).partition("\n" + start)
    return found[1:] + rest.partition("\n" + end)[0]


@cache
def client(name: str) -> str:
    """The text of sql/client/<name>.sql."""
    return _text("client", name)


@cache
def migrations() -> tuple[MigrationFile, ...]:
    """Every migration, first to last."""
    files = sorted((_folder("sql") / "migrations").glob("*.sql"))
    return tuple(MigrationFile(path.stem, _read(path)) for path in files)


def roles() -> str:
    """The text of sql/roles.sql."""
    return _read(_folder("sql") / "roles.sql")


@cache
def trigger() -> str:
    """What installs the doorbell trigger; any number of times."""
    return _read(_folder("triggers") / "doorbell.sql")


@cache
def trigger_down() -> str:
    """What removes the doorbell trigger."""
    return _read(_folder("triggers") / "doorbell.down.sql")


def _folder(name: str) -> Path:
    package = Path(__file__).parent.parent
    for folder in (package / f"_{name}", package.parent / name):
        if folder.is_dir():
            return folder
    raise Misconfigured(
        f"the {name} folder of the dispatcher is missing beside {package}: the installation is broken, install it again"
    )


def _text(folder: str, name: str) -> str:
    return _texts(folder).get(name) or _read(_folder("sql") / folder / f"{name}.sql")


@cache
def _texts(folder: str) -> dict[str, str]:
    """All files of sql/<folder> by name, read at once.

    A process that runs out of file descriptors, or whose installation is replaced by a newer one, goes on with these.
    """
    return {path.stem: _read(path) for path in (_folder("sql") / folder).glob("*.sql")}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Misconfigured(f"cannot read the SQL file {path.name} in {path.parent}: {reason}") from None
