"""Peers that are written for Node.js: which Node there is, and their packages.

`python -m bench.rivals install` installs the packages into the venv, from npm, where there is a Node that can run them.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from dispatcher.core.errors import DispatcherError

WANTED = (22, 18)  # graphile-worker 0.18; pg-boss 12 is content with 22.12
PACKAGES = {"graphile-worker": "0.18.0", "pg-boss": "12.38.0"}
FOLDER = Path(sys.prefix) / "bench-node"
SCRIPTS = Path(__file__).parent / "js"


def problem() -> str | None:
    """Why no peer for Node.js can run here, in words for a report; None: they can."""
    node = shutil.which("node")
    if node is None:
        return "graphile-worker and pg-boss were left out: there is no Node.js here (22.18 or later is needed)"
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"v(\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < WANTED:
        return (
            f"graphile-worker and pg-boss were left out: Node.js {said.strip()} is too old (22.18 or later is needed)"
        )
    return None


def version(package: str) -> str:
    """The installed version. Raises PackageNotFoundError."""
    try:
        described = json.loads((FOLDER / "node_modules" / package / "package.json").read_text(encoding="utf-8"))
    except OSError:
        raise PackageNotFoundError(package) from None
    return str(described["version"])


def command(script: str, what: str = "relay") -> tuple[str, ...]:
    """What runs a script of js/."""
    return (shutil.which("node") or "node", str(SCRIPTS / f"{script}.mjs"), what)


def run(script: str, what: str, environment: Mapping[str, str]) -> str:
    """Run a script to its end; what it printed. Raises DispatcherError with its last words."""
    surroundings = os.environ | {"BENCH_NODE_FOLDER": str(FOLDER)} | dict(environment)
    done = subprocess.run(command(script, what), env=surroundings, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DispatcherError(f"{script}.mjs {what} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def install() -> int:
    """Install the packages. Exit code: 0 also where there is no Node that can run them; that is said."""
    if why := problem():
        print(why, file=sys.stderr)
        return 0
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "package.json").write_text('{"private": true}\n', encoding="utf-8")
    packages = [f"{name}@{wanted}" for name, wanted in PACKAGES.items()]
    npm = [shutil.which("npm") or "npm", "install", "--silent", "--no-audit", "--no-fund", "--no-package-lock"]
    return subprocess.run([*npm, "--ignore-scripts", *packages], cwd=FOLDER, check=False).returncode
