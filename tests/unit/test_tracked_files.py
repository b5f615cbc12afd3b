"""What must never be committed: paths of one machine, package indexes, binaries, what is too long, names used twice."""

import ast
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
MAX_BYTES = 200_000
MAX_LINES = 300  # of a file of the product: longer ones answer more than one question
MAX_FUNCTION_LINES = 60  # ruff counts statements, not lines

# Classes and types of the product that share their name, and why.
SHARED_CLASS_NAMES = {
    "Event": "applications import both: dispatcher.client.Event is inserted, dispatcher.handlers.Event is handled",
    "Migration": "Django looks for this name in each file of migrations",
    "Run": "one meaning, twice: in threads.py it blocks, in tasks.py it is awaited",
}
_TYPE_NAME = re.compile(r"_?(?:[A-Z][a-z]+)+[A-Z]?")

# Each pattern has a bracket that keeps it from finding itself.
FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.$}])/(wor[k]|roo[t]|hom[e]/\w+|Users/\w+)/"),
    "the address of a package index": re.compile(r"inde[x][-_]url|find[-]links|/simpl[e]/|files\.pythonhoste[d]"),
    "a private key": re.compile(r"-----BEGI[N] [A-Z ]*PRIVATE KEY"),
}


def tracked() -> list[Path]:
    """Every file git knows."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, or no git")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_holds_what_belongs_to_one_machine() -> None:
    found = []
    for path in tracked():
        text = path.read_text(encoding="utf-8")
        found += [
            f"{path.relative_to(ROOT)} holds {what}" for what, pattern in FORBIDDEN.items() if pattern.search(text)
        ]
    assert not found


def test_files_are_text_and_small() -> None:
    found = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.stat().st_size > MAX_BYTES or b"\0" in path.read_bytes()
    ]
    assert not found


def test_no_file_of_the_product_is_long() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "dispatcher").rglob("*.py")}
    assert not {str(path.relative_to(ROOT)): count for path, count in lines.items() if count > MAX_LINES}


def test_no_function_of_the_product_is_long() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {lines} lines"
        for folder in ("dispatcher", "bench", "examples")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not found


def test_a_class_name_of_the_product_has_one_meaning() -> None:
    files: defaultdict[str, set[str]] = defaultdict(set)  # by the name of a class or type: where it is defined
    for path in (ROOT / "dispatcher").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
        targets += [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
        names += [each.id for each in targets if isinstance(each, ast.Name) and _TYPE_NAME.fullmatch(each.id)]
        for name in names:
            files[name].add(str(path.relative_to(ROOT)))
    shared = {name: sorted(paths) for name, paths in files.items() if len(paths) > 1}
    assert not {name: paths for name, paths in shared.items() if name not in SHARED_CLASS_NAMES}
    assert not SHARED_CLASS_NAMES.keys() - shared.keys(), "no longer shared: take it off the list"
