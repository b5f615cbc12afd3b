"""pyproject.toml, constraints.txt, the Makefile and the manifests name one distribution, and one version of it."""

import re
import shutil
import subprocess
import sys
import tomllib
from typing import Any

import pytest
import yaml

import dispatcher
from dispatcher.core import server_extra
from tests.support.readme import ROOT

PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
IMAGE = "ghcr.io/outbox-dispatcher/outbox-dispatcher"
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def names(requirements: list[Any]) -> set[str]:
    """The distributions that a list of requirements names, as they are imported."""
    found = (re.match(r"[A-Za-z0-9._-]+", text) for text in requirements if isinstance(text, str))
    return {match[0].lower().replace("-", "_") for match in found if match}


def test_the_bare_distribution_has_no_dependencies() -> None:
    assert PROJECT["name"] == "outbox-dispatcher"
    assert PROJECT["dependencies"] == []


def test_what_the_server_imports_is_in_its_extra() -> None:
    """server_extra.py looks for these before the server imports anything else."""
    assert set(server_extra.NEEDED) == names(PROJECT["optional-dependencies"]["server"])


def without_packages(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this Python with the standard library and our own folder only, as after `pip install outbox-dispatcher`."""
    return subprocess.run([sys.executable, "-E", "-S", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_the_bare_client_can_be_imported() -> None:
    done = without_packages(
        "-c", "from dispatcher.client import Event, add_event; from dispatcher.handlers import handler"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["consumer", "tail", "dedup"])
def test_without_redis_py_a_reader_says_what_to_install(module: str) -> None:
    done = without_packages("-c", f"import dispatcher.client.{module}")
    assert done.stderr.endswith("ModuleNotFoundError: reading the stream needs redis-py; run: pip install redis\n")


def test_sqlalchemy_without_greenlet_is_enough_for_its_plain_sessions() -> None:
    """SQLAlchemy 2.1 brings no greenlet, and without it has nothing for asyncio."""
    program = """
import sys
sys.modules["greenlet"] = None
from sqlalchemy.orm import Session
from dispatcher.client import Event
from dispatcher.client.sqlalchemy import add_event
try:
    add_event(Session(), Event(event_type="a", aggregate_id="1", payload={}), bind=None)
except Exception as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "several engines" in done.stdout, done.stdout


@pytest.mark.parametrize("module", ["dispatcher", "dispatcher.cli"])
def test_without_the_server_the_command_says_in_one_line_what_to_install(module: str) -> None:
    done = without_packages("-m", module, "run")
    assert done.returncode == 2
    assert re.fullmatch(
        r"dispatcher: the server is not installed; run: pip install '\.\[server\]' in a checkout, or from PyPI, once "
        r"released: pip install 'outbox-dispatcher\[server\]' \(missing: .*\)\n",
        done.stderr,
    )


def test_tools_for_this_repository_are_no_published_extras() -> None:
    clients = {"sqlalchemy", "asyncpg", "django"}
    assert set(PROJECT["optional-dependencies"]) == {"server", "embedded", "testing", "otel"} | clients
    assert {"dev", "bench", "peers"} <= set(PYPROJECT["dependency-groups"])


def test_constraints_pin_exact_versions_of_all_that_is_named() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line)] == []
    lists = [*PROJECT["optional-dependencies"].values(), *PYPROJECT["dependency-groups"].values()]
    assert set().union(*map(names, lists)) - names(lines) == {"outbox_dispatcher"}


def test_the_manifests_name_the_image_and_the_version_that_a_release_publishes() -> None:
    files = sorted((ROOT / "deploy" / "kubernetes").rglob("kustomization.yaml"))
    images = [image for file in files for image in yaml.safe_load(file.read_text()).get("images", [])]
    assert images
    assert {(image["newName"], image["newTag"]) for image in images} == {(IMAGE, dispatcher.__version__)}


def test_the_scripts_can_be_run() -> None:
    assert [name for name in ("run", "debian") if (ROOT / ".ci" / name).stat().st_mode & 0o111 != 0o111] == []


def test_make_help_names_every_target() -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    told = subprocess.run([make, "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    assert phony is not None
    assert set(phony[1].split()) == targets
    assert set(re.findall(r"^  make ([a-z-]+) +\S", told, re.MULTILINE)) == targets
