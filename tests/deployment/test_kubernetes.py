"""The manifests: valid by Kubernetes' own schemas, restricted, drained before they are killed."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.api.access import ROUTE_SCOPES
from tests.deployment.settings import read, unknown
from tests.process import ROOT

FOLDER = ROOT / "docker" / "kubernetes"
PODS = {"Deployment", "StatefulSet"}
VERSION = "1.34"


def documents(folder: str) -> list[dict[str, Any]]:
    """Return the manifests of a folder as they are written, before an overlay."""
    files = sorted((FOLDER / folder).glob("*.yml"))
    return [one for file in files for one in yaml.safe_load_all(file.read_text())]


def rendered(folder: str) -> list[dict[str, Any]]:
    """Return what `kubectl apply -k` would send."""
    command = ["kubectl", "kustomize", str(FOLDER / folder)]
    return list(yaml.safe_load_all(subprocess.check_output(command, text=True)))


needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
SOURCES = [
    pytest.param(documents, "base", id="base as written"),
    pytest.param(rendered, "base", id="base", marks=needs_kubectl),
    pytest.param(rendered, "production", id="production", marks=needs_kubectl),
]


def pods(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the pod spec of each workload."""
    return {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]
        for one in found
        if one["kind"] in PODS
    }


def environment(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["containers"]
    return {one["name"]: one for one in container.get("env", ())}


@pytest.mark.parametrize(("source", "folder"), SOURCES)
def test_every_manifest_has_kubernetes_own_shape(source, folder):
    found = source(folder)
    assert {"Deployment", "StatefulSet", "Service", "NetworkPolicy"} <= {d["kind"] for d in found}
    for document in found:
        kubernetes_validate.validate(document, VERSION, strict=True)


def test_a_field_that_is_none_is_found():
    (document, *_) = documents("base")
    document["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, VERSION, strict=True)


@pytest.mark.parametrize(("source", "folder"), SOURCES)
def test_a_pod_is_restricted(source, folder):
    for name, pod in pods(source(folder)).items():
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"].keys() == {"cpu", "memory"}
            assert not container["image"].endswith(":latest")
            assert ":" in container["image"]


@pytest.mark.parametrize(("source", "folder"), SOURCES)
def test_the_grace_period_is_the_sleep_the_drain_and_five_seconds(source, folder):
    pod = pods(source(folder))["api"]
    (container,) = pod["containers"]
    sleep = re.search(r"sleep\((\d+)\)", container["lifecycle"]["preStop"]["exec"]["command"][2])
    drain_s = float(environment(pod)["CAROUSEL_DRAIN_S"]["value"])
    assert pod["terminationGracePeriodSeconds"] == int(sleep.group(1)) + drain_s + 5


@pytest.mark.parametrize(("source", "folder"), SOURCES)
def test_its_variables_are_settings_with_values_that_are_taken(source, folder):
    for pod in pods(source(folder)).values():
        found = environment(pod)
        assert not unknown(found)
        read(
            **{
                name: one["value"]
                for name, one in found.items()
                if "value" in one and name.startswith("CAROUSEL_")
            }
        )


@pytest.mark.parametrize(("source", "folder"), SOURCES)
def test_nobody_is_let_in_without_a_key(source, folder):
    found = environment(pods(source(folder))["api"])
    assert "CAROUSEL_ALLOW_ANONYMOUS" not in found
    for name in ("CAROUSEL_ADMIN_KEY", "CAROUSEL_SECRET"):
        assert found[name]["valueFrom"]["secretKeyRef"]["name"] == "carousel"


@pytest.mark.parametrize(("source", "folder"), SOURCES)
def test_probes_ask_routes_that_need_no_key(source, folder):
    (container,) = pods(source(folder))["api"]["containers"]
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert ports == {"http": 8000, "metrics": 9100}
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[kind]["httpGet"]
        assert ROUTE_SCOPES[f"GET {asked['path']}"] == "public"
        assert asked["port"] == "http"
    assert container["livenessProbe"]["httpGet"]["path"].endswith("/live")
    assert container["startupProbe"]["httpGet"]["path"].endswith("/ready")


@pytest.mark.parametrize(("source", "folder"), SOURCES)
def test_every_path_that_is_written_to_is_mounted(source, folder):
    (container,) = pods(source(folder))["api"]["containers"]
    mounted = {one["mountPath"] for one in container["volumeMounts"]}
    dockerfile = (ROOT / "Dockerfile").read_text()
    volumes = set(re.findall(r'"(/var/[^"]+)"', dockerfile))
    assert volumes | {"/tmp"} == mounted


@needs_kubectl
@pytest.mark.parametrize("folder", ["base", "production"])
def test_selectors_find_the_pods_they_are_for(folder):
    found = rendered(folder)
    labels = [d["spec"]["template"]["metadata"]["labels"] for d in found if d["kind"] in PODS]

    def matches(selector: dict[str, str]) -> int:
        return sum(selector.items() <= one.items() for one in labels)

    for document in found:
        spec = document.get("spec", {})
        if document["kind"] == "Service":
            assert matches(spec["selector"]) == 1, document["metadata"]["name"]
        if document["kind"] in {"PodDisruptionBudget", *PODS}:
            assert matches(spec["selector"]["matchLabels"]) == 1, document["metadata"]["name"]
        if document["kind"] == "NetworkPolicy" and document["metadata"]["name"] != "default":
            assert matches(spec["podSelector"]["matchLabels"]) == 1, document["metadata"]["name"]


@pytest.mark.parametrize(("source", "folder"), SOURCES)
def test_only_servers_and_workers_reach_the_store(source, folder):
    policies = {
        d["metadata"]["name"]: d["spec"] for d in source(folder) if d["kind"] == "NetworkPolicy"
    }
    (ingress,) = policies["valkey"]["ingress"]
    peers = [one["podSelector"]["matchLabels"] for one in ingress["from"]]
    assert {one["app.kubernetes.io/component"] for one in peers} == {"api", "worker"}
    assert policies["default"] == {
        "podSelector": policies["default"]["podSelector"],
        "policyTypes": ["Ingress"],
    }


@needs_kubectl
def test_production_is_two_servers_that_are_updated_one_by_one():
    found = rendered("production")
    (api,) = (d for d in found if d["kind"] == "Deployment" and d["metadata"]["name"] == "api")
    assert api["spec"]["replicas"] == 2
    assert api["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    claims = [d for d in found if d["kind"] == "PersistentVolumeClaim"]
    assert [d["spec"]["accessModes"] for d in claims] == [["ReadWriteMany"]] * 2
    (ingress,) = (d for d in found if d["kind"] == "Ingress")
    host = ingress["spec"]["rules"][0]["host"]
    hosts = environment(pods(found)["api"])["CAROUSEL_ALLOWED_HOSTS"]["value"]
    assert host in hosts.split(",")
    assert "affinity" not in pods(found)["worker"]


def test_the_kserve_runtime_asks_the_open_inference_protocol():
    runtime, service = documents("kserve")
    (container,) = runtime["spec"]["containers"]
    assert runtime["spec"]["protocolVersions"] == ["v2"]
    variables = {one["name"]: one.get("value") for one in container["env"]}
    assert not unknown(variables)
    assert variables["CAROUSEL_MODEL_STORE"] == "/mnt/models"
    for kind in ("readinessProbe", "livenessProbe"):
        assert ROUTE_SCOPES[f"GET {container[kind]['httpGet']['path']}"] == "public"
    assert service["spec"]["predictor"]["model"]["runtime"] == runtime["metadata"]["name"]


def test_kustomizations_name_every_file():
    for folder in ("base", "production"):
        kustomization = yaml.safe_load((FOLDER / folder / "kustomization.yaml").read_text())
        named = {Path(one).name for one in kustomization["resources"]} - {"base"}
        assert named == {file.name for file in (FOLDER / folder).glob("*.yml")}
