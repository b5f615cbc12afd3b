"""What the how-to pages tell to type at Docker or a cluster names things that are there: neither is at hand here."""

import re

import yaml

from dispatcher.settings import describe
from tests.support.readme import ROOT, page
from tests.support.runbook import commands, sections

PAGES = page("how-to/run-with-compose.md") + page("how-to/run-on-kubernetes.md") + page("how-to/canary.md")
SECTIONS = sections(PAGES)
NAMED = [code.split() for section in SECTIONS for code in section.inline]
NAMED += [
    words for each in SECTIONS for language, text in each.blocks if language == "sh" for _, words in commands(text)
]


def said(*words: str) -> list[list[str]]:
    """The arguments of each command on the page that begins so."""
    found = [code[len(words) :] for code in NAMED if code[: len(words)] == list(words)]
    assert found, f"the page no longer says {' '.join(words)}"
    return found


def test_every_program_is_known() -> None:
    """Who adds a command of another kind says here what is checked of it."""
    first_words = {tuple(code[:2]) for code in NAMED if code[0] in ("docker", "kubectl", "helm", "terraform")}
    assert first_words <= {
        ("docker", "compose"),
        ("docker", "build"),
        ("kubectl", "apply"),
        ("kubectl", "set"),
        ("kubectl", "port-forward"),
    }


def test_compose() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    profiles = {profile for service in services.values() for profile in service.get("profiles", ())}
    for arguments in said("docker", "compose"):
        action = next(word for word in arguments if word in ("up", "down", "kill"))
        named = arguments[arguments.index(action) + 1 :]
        assert {name for name in named if not name.startswith("-")} <= set(services)
        assert {arguments[at + 1] for at, word in enumerate(arguments) if word == "--profile"} <= profiles


def test_build_and_rehearsal() -> None:
    for arguments in said("docker", "build"):
        assert (ROOT / arguments[arguments.index("-f") + 1]).is_file()
    scripts = [arguments[0] for arguments in said("python") if arguments]
    assert scripts
    assert all((ROOT / script).is_file() for script in scripts)


def test_kubectl() -> None:
    manifests = (ROOT / "deploy" / "kubernetes" / "base").glob("*.yaml")
    objects = [each for path in manifests for each in yaml.safe_load_all(path.read_text(encoding="utf-8")) if each]
    names = {f"{each['kind'].lower()}/{each['metadata']['name']}" for each in objects if "metadata" in each}
    variables = {row.env for row in describe()}
    for what, *arguments in said("kubectl", "set"):
        assert what == "env"
        changed = [word.partition("=")[0] for word in arguments if re.match(r"[A-Z_]+=", word)]
        assert changed
        assert set(changed) <= variables
        assert {word for word in arguments if "/" in word} <= names
    for name in re.findall(r"`(deploy/kubernetes/[\w/]+)`", PAGES):
        assert (ROOT / name / "kustomization.yaml").is_file(), name
