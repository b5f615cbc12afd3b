"""Renders a kustomization: with kubectl or kustomize where there is one, else by ourselves what our files use of it."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]


def program() -> list[str] | None:
    """The command that renders a folder, or None where nothing is installed."""
    if found := shutil.which("kustomize"):
        return [found, "build"]
    if found := shutil.which("kubectl"):
        return [found, "kustomize"]
    return None


def render(folder: Path) -> list[Manifest]:
    """All manifests of a kustomization."""
    command = program()
    return render_with(command, folder) if command else render_ourselves(folder)


def render_with(command: list[str], folder: Path) -> list[Manifest]:
    """By the real thing; fails with its words."""
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def render_ourselves(folder: Path, into: list[Manifest] | None = None) -> list[Manifest]:
    """Resources, components, patches from files, images. Anything else in a kustomization is an error."""
    said = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    unknown = set(said) - {"apiVersion", "kind", "resources", "components", "patches", "images"}
    assert not unknown, f"{folder}: {unknown} is not understood without kubectl"
    manifests = [] if into is None else into
    for name in said.get("resources", []):
        path = folder / name
        manifests += render_ourselves(path) if path.is_dir() else _read(path)
    for name in said.get("components", []):
        render_ourselves(folder / name, manifests)
    for patch in said.get("patches", []):
        for change in _read(folder / patch["path"]):
            [target] = [each for each in manifests if _key(each) == _key(change)]
            target |= _merged(target, change)
    for image in said.get("images", []):
        for manifest in manifests:
            _rename(manifest, image)
    return manifests


def _read(path: Path) -> list[Manifest]:
    return [manifest for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8")) if manifest]


def _key(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def _merged(old: Any, new: Any) -> Any:
    """A strategic merge: maps by key, lists of named things by name, null removes, anything else replaces."""
    if isinstance(old, dict) and isinstance(new, dict):
        both = {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}
        for key in [key for key, value in new.items() if value is None]:
            del both[key]
        return both
    if (
        isinstance(old, list)
        and isinstance(new, list)
        and all(isinstance(each, dict) and "name" in each for each in new)
    ):
        changes = {each["name"]: each for each in new}
        kept = [_merged(each, changes.pop(each["name"], {})) for each in old]
        return [*kept, *changes.values()]
    return new


def _rename(node: Any, image: dict[str, str]) -> None:
    if isinstance(node, dict):
        if node.get("image") == image["name"]:
            node["image"] = f"{image['newName']}:{image['newTag']}"
        for value in node.values():
            _rename(value, image)
    elif isinstance(node, list):
        for each in node:
            _rename(each, image)
