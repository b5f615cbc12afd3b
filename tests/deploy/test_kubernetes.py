"""The manifests as they are rendered: valid, restricted, and in step with the program."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from prometheus_client import CollectorRegistry

from dispatcher.settings import describe
from dispatcher.settings.describe import default_text
from dispatcher.sidecar import app
from tests.support.kustomize import Manifest, program, render, render_ourselves, render_with
from tests.support.readme import ROOT, page

FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = {"canary": ("5", 1), "partial": ("25", 2), "full": ("100", 3)}
KUSTOMIZATIONS = ["base", "migrate", *(f"overlays/{name}" for name in OVERLAYS)]
OF_OTHERS = {"ScaledObject", "PodMonitor"}  # custom resources, whose schemas their operators bring
VERSIONS = ("1.29", kubernetes_validate.latest_version())


@pytest.fixture(scope="module")
def with_components(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The overlay `full` with everything that can be added, as its comment says; the two autoscalers are either or."""
    folder = tmp_path_factory.mktemp("overlay").resolve()
    at = Path(os.path.relpath(FOLDER, folder))
    lines = ["resources:", f"- {at}/overlays/full", "components:"]
    lines += [f"- {at}/components/{path.name}" for path in sorted((FOLDER / "components").iterdir())]
    (folder / "kustomization.yaml").write_text("\n".join(lines))
    return folder


def one(kind: str, manifests: list[Manifest]) -> Manifest:
    """The only manifest of that kind."""
    [found] = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod template, by the kind that makes pods of it."""
    for manifest in manifests:
        spec = manifest.get("spec", {})
        spec = spec["jobTemplate"]["spec"] if "jobTemplate" in spec else spec
        if "template" in spec:
            yield manifest["kind"], spec["template"]


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_manifests_are_valid(name: str) -> None:
    for manifest in render(FOLDER / name):
        for version in VERSIONS:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_components_are_valid(with_components: Path) -> None:
    manifests = render(with_components)
    assert {manifest["kind"] for manifest in manifests} >= {"HorizontalPodAutoscaler", *OF_OTHERS}
    for manifest in manifests:
        if manifest["kind"] not in OF_OTHERS:
            kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)
    assert "replicas" not in one("Deployment", manifests)["spec"]
    for kind in ("HorizontalPodAutoscaler", "ScaledObject"):
        assert (
            one(kind, manifests)["spec"]["scaleTargetRef"]["name"] == one("Deployment", manifests)["metadata"]["name"]
        )


def test_a_mistake_is_red() -> None:
    [deployment] = [each for each in render(FOLDER / "base") if each["kind"] == "Deployment"]
    deployment["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)


def test_our_renderer_and_the_real_one_agree(with_components: Path) -> None:
    command = program()
    if command is None:
        pytest.skip("neither kubectl nor kustomize is installed: the manifests are rendered by the tests' own renderer")
    for folder in (*(FOLDER / name for name in KUSTOMIZATIONS), with_components):
        assert ordered(render_ourselves(folder)) == ordered(render_with(command, folder))


def ordered(node: Any) -> Any:
    """The same without the order of named things."""
    if isinstance(node, dict):
        return {key: ordered(value) for key, value in node.items()}
    if isinstance(node, list):
        return sorted((ordered(each) for each in node), key=partial(json.dumps, sort_keys=True))
    return node


@pytest.mark.parametrize("name", OVERLAYS)
def test_each_phase_takes_its_share(name: str) -> None:
    percent, replicas = OVERLAYS[name]
    deployment = one("Deployment", render(FOLDER / "overlays" / name))
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    env = {each["name"]: each.get("value") for each in container["env"]}
    assert (env["DISPATCHER_ENABLED"], env["DISPATCH_CANARY_PERCENT"]) == ("true", percent)
    assert deployment["spec"]["replicas"] == replicas
    canary = deployment["metadata"]["labels"].get("canary")
    assert canary == deployment["spec"]["template"]["metadata"]["labels"].get("canary")
    assert (canary == "true") == (name == "canary")  # what the runbook selects by
    assert "@" in container["image"] or re.search(r":[\w.]+$", container["image"])


def test_it_is_off_until_an_overlay_turns_it_on() -> None:
    [container] = one("Deployment", render(FOLDER / "base"))["spec"]["template"]["spec"]["containers"]
    assert {"name": "DISPATCHER_ENABLED", "value": "false"} in container["env"]


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_pods_fit_the_restricted_standard(name: str) -> None:
    found = list(pods(render(FOLDER / name)))
    assert found
    for kind, template in found:
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, kind
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert {volume for each in spec.get("volumes", []) for volume in each} <= {"name", "secret", "emptyDir"}
        for container in spec["containers"]:
            own = container["securityContext"]
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert (own["allowPrivilegeEscalation"], own["readOnlyRootFilesystem"]) == (False, True)
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_settings_are_known_and_secrets_are_references(name: str) -> None:
    known = {row.env for row in describe() if row.env}
    known |= {f"{env}_FILE" for env in known}
    for _, template in pods(render(FOLDER / name)):
        for container in template["spec"]["containers"]:
            for each in container.get("env", []):
                assert each["name"] in known
                if re.search(r"URL$|TOKEN$|PASSWORD", each["name"]):
                    assert "secretKeyRef" in each["valueFrom"]
                assert not re.search(r"URL$", each["name"]), "a URL with a password comes from a file"
            mounted = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            files = [each["value"] for each in container.get("env", []) if each["name"].endswith("_FILE")]
            assert all(any(file.startswith(f"{path}/") for path in mounted) for file in files)


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_certificates_of_a_private_authority_have_a_place_where_the_page_says(name: str) -> None:
    """In every pod that connects to a server; and a secret that is not there keeps none from starting."""
    said = set(re.findall(r"(?:sslrootcert|ssl_ca_certs)=(/\S+?)(?:[`'&|]|$)", page("how-to/run-on-kubernetes.md")))
    [file] = said
    for kind, template in pods(render(FOLDER / name)):
        [container] = template["spec"]["containers"]
        [mount] = [each for each in container["volumeMounts"] if file.startswith(f"{each['mountPath']}/")]
        assert mount["readOnly"] is True, kind
        [volume] = [each for each in template["spec"]["volumes"] if each["name"] == mount["name"]]
        assert volume["secret"] == {"secretName": "messaging-ca", "optional": True}, kind
        assert file == f"{mount['mountPath']}/ca.crt"


def test_probes_and_grace_fit_the_program() -> None:
    spec = one("Deployment", render(FOLDER / "base"))["spec"]["template"]["spec"]
    [container] = spec["containers"]
    served = {r.resource.canonical for r in app.build(lambda: None, CollectorRegistry()).router.routes() if r.resource}
    paths = {
        kind: container[f"{kind}Probe"]["httpGet"]["path"].partition("?")[0]
        for kind in ("startup", "liveness", "readiness")
    }
    assert paths == {"startup": "/health", "liveness": "/health", "readiness": "/ready"}
    assert set(paths.values()) <= served
    assert container["ports"] == [{"name": "http", "containerPort": int(default_text("http_port"))}]
    assert spec["terminationGracePeriodSeconds"] * 1000 >= int(default_text("shutdown_grace_ms")) + 10_000


def test_selectors_select_the_dispatcher() -> None:
    manifests = render(FOLDER / "overlays" / "full")
    labels = one("Deployment", manifests)["spec"]["template"]["metadata"]["labels"]
    selectors = [
        one("Deployment", manifests)["spec"]["selector"]["matchLabels"],
        one("Service", manifests)["spec"]["selector"],
        one("PodDisruptionBudget", manifests)["spec"]["selector"]["matchLabels"],
        one("NetworkPolicy", manifests)["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector and selector.items() <= labels.items() for selector in selectors)
    account = one("ServiceAccount", manifests)["metadata"]["name"]
    assert one("Deployment", manifests)["spec"]["template"]["spec"]["serviceAccountName"] == account


def test_the_prune_job_prunes(database_url: str, tmp_path: Path) -> None:
    [(_, template)] = [each for each in pods(render(FOLDER / "base")) if each[0] == "CronJob"]
    [container] = template["spec"]["containers"]
    assert "command" not in container
    secret = tmp_path / "url"
    secret.write_text(database_url)
    done = subprocess.run(
        [sys.executable, "-m", "dispatcher", *container["args"]],
        env=os.environ | {"DATABASE_URL_FILE": str(secret)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "0" in done.stdout
