"""Files for GitHub fit the schemas that check-jsonschema carries, and workflows have no right that they do not use."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.readme import ROOT

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
SCHEMAS = {
    "vendor.github-workflows": WORKFLOWS,
    "vendor.dependabot": [GITHUB / "dependabot.yml"],
    "vendor.github-issue-config": [GITHUB / "ISSUE_TEMPLATE" / "config.yml"],
    "vendor.github-issue-forms": [GITHUB / "ISSUE_TEMPLATE" / "bug.yml", GITHUB / "ISSUE_TEMPLATE" / "feature.yml"],
}


def check(schema: str, *files: Path) -> subprocess.CompletedProcess[str]:
    """Validate against a schema that check-jsonschema has with it."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, files)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def workflow(name: str) -> dict[str, Any]:
    """One workflow, parsed."""
    return dict(yaml.safe_load((GITHUB / "workflows" / name).read_text(encoding="utf-8")))


@pytest.mark.parametrize("schema", SCHEMAS)
def test_they_fit_their_schemas(schema: str, tmp_path: Path) -> None:
    done = check(schema, *SCHEMAS[schema])
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(yaml.safe_dump(yaml.safe_load(SCHEMAS[schema][0].read_text()) | {"surprise": 1}))
    assert check(schema, wrong).returncode == 1


def test_no_file_is_left_unchecked() -> None:
    assert {file for files in SCHEMAS.values() for file in files} == set(GITHUB.rglob("*.yml"))


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_actions_have_a_major_version_and_jobs_few_rights(file: Path) -> None:
    loaded = workflow(file.name)
    assert loaded["permissions"] == {"contents": "read"}
    for job in loaded["jobs"].values():
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", step.get("uses", "a/b@v1"))
            # What a person can name (a branch, a title) must not become a part of a script.
            assert "${{" not in step.get("run", "")
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
    rights = {name: job.get("permissions") for name, job in loaded["jobs"].items() if "permissions" in job}
    assert (
        rights
        == {
            "ci.yml": {},
            "docs.yml": {"publish": {"pages": "write", "id-token": "write"}},
            "release.yml": {"pypi": {"id-token": "write"}, "image": {"contents": "read", "packages": "write"}},
        }[file.name]
    )


def test_both_run_what_a_developer_runs_and_a_release_needs_it() -> None:
    for file in ("ci.yml", "release.yml"):
        steps = [step for job in workflow(file)["jobs"].values() for step in job["steps"]]
        assert ".ci/run" in [step.get("run") for step in steps]
    release = workflow("release.yml")["jobs"]
    assert {name: job.get("needs") for name, job in release.items()} == {
        "build": None,
        "pypi": "build",
        "image": "build",
    }


def test_a_bug_report_asks_for_the_doctor() -> None:
    form = yaml.safe_load((GITHUB / "ISSUE_TEMPLATE" / "bug.yml").read_text(encoding="utf-8"))
    asked = {field["id"]: field for field in form["body"] if "id" in field}
    assert "dispatcher doctor --json" in asked["doctor"]["attributes"]["label"]
    assert [name for name, field in asked.items() if field.get("validations", {}).get("required")] == [
        "happened",
        "doctor",
        "versions",
    ]
