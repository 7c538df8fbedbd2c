"""The Kubernetes manifests: valid, built by kustomize, and true of the service and its image."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prometheus_client import CollectorRegistry

from service.metrics import Metrics
from service.settings import Settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
BUILDS = ("base", "overlays/gpu", "overlays/image-models")
DOCKERFILE = (ROOT / "Dockerfile").read_text()
LABELS = {"app.kubernetes.io/name": "oodscore"}
# kinds of the Prometheus operator, whose schema Kubernetes does not carry
OTHERS = {"ServiceMonitor"}
VERSION = "1.33"


def named(*resources: dict[str, Any]) -> dict[str, dict[str, Any]]:
    kinds = {resource["kind"]: resource for resource in resources}
    assert len(kinds) == len(resources)
    return kinds


def files() -> dict[str, dict[str, Any]]:
    """The base as it stands in its files, by kind."""
    listed = yaml.safe_load((FOLDER / "base/kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == sorted(
        path.name for path in (FOLDER / "base").glob("*.yaml") if path.stem != "kustomization"
    )
    return named(*(yaml.safe_load((FOLDER / "base" / name).read_text()) for name in listed))


def built(folder: str) -> dict[str, dict[str, Any]]:
    """What `kubectl apply --kustomize` would send, by kind."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    version = subprocess.run(
        [kubectl, "version", "--client", "--output=json"], capture_output=True, check=True
    )
    client = json.loads(version.stdout)["clientVersion"]
    if int(re.sub(r"\D", "", client["minor"])) < 24:
        pytest.skip(f"kubectl {client['gitVersion']} is too old for kustomize's `labels`")
    done = subprocess.run(
        [kubectl, "kustomize", FOLDER / folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return named(*yaml.safe_load_all(done.stdout))


def container(resources: dict[str, dict[str, Any]]) -> dict[str, Any]:
    (one,) = resources["Deployment"]["spec"]["template"]["spec"]["containers"]
    return one


def validate(resources: dict[str, dict[str, Any]]) -> None:
    for kind in set(resources) - OTHERS:
        kubernetes_validate.validate(resources[kind], VERSION, strict=True)


def test_the_base_is_valid() -> None:
    validate(files())


def test_a_wrong_field_would_be_found() -> None:
    resources = files()
    container(resources)["readinessprobe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readinessprobe"):
        validate(resources)


@pytest.mark.parametrize("folder", BUILDS)
def test_builds_are_valid_and_of_one_piece(folder: str) -> None:
    resources = built(folder)
    validate(resources)
    assert set(resources) - {"ConfigMap", "PersistentVolumeClaim"} == {
        "ServiceAccount", "Deployment", "Service", "HorizontalPodAutoscaler",
        "PodDisruptionBudget", "NetworkPolicy", "ServiceMonitor",
    }  # fmt: skip
    one = container(resources)
    (source,) = one["envFrom"]
    assert source["configMapRef"]["name"] == resources["ConfigMap"]["metadata"]["name"]
    pod = resources["Deployment"]["spec"]["template"]["spec"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert volumes == {mount["name"] for mount in one["volumeMounts"]}


def test_the_gpu_overlay_asks_for_a_gpu_and_uses_it() -> None:
    resources = built("overlays/gpu")
    assert container(resources)["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container(resources)["image"] == "oodscore:gpu"
    assert resources["ConfigMap"]["data"]["OODSCORE_PROVIDER"] == "cuda"
    assert resources["ConfigMap"]["data"]["OODSCORE_LOG_LEVEL"] == "info"
    base = container(built("base"))
    for kept in ("securityContext", "livenessProbe", "readinessProbe", "volumeMounts", "ports"):
        assert container(resources)[kept] == base[kept]


def test_models_of_the_image_need_no_volume() -> None:
    resources = built("overlays/image-models")
    assert "PersistentVolumeClaim" not in resources
    assert [mount["mountPath"] for mount in container(resources)["volumeMounts"]] == ["/tmp"]  # noqa: S108


def test_every_selector_finds_the_replicas() -> None:
    resources = files()
    spec = resources["Deployment"]["spec"]
    assert spec["template"]["metadata"]["labels"] == LABELS
    assert spec["selector"]["matchLabels"] == LABELS
    assert resources["Service"]["spec"]["selector"] == LABELS
    assert resources["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == LABELS
    assert resources["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == LABELS
    # the label of the Service itself is given by kustomization.yaml
    assert resources["ServiceMonitor"]["spec"]["selector"]["matchLabels"] == LABELS
    (pairs,) = yaml.safe_load((FOLDER / "base/kustomization.yaml").read_text())["labels"]
    assert pairs["pairs"] == LABELS
    target = resources["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert target["name"] == resources["Deployment"]["metadata"]["name"]


def test_ports_and_paths_are_those_of_the_service() -> None:
    from service.app import create_app

    resources = files()
    one = container(resources)
    (port,) = one["ports"]
    assert f"EXPOSE {port['containerPort']}" in DOCKERFILE
    assert f"OODSCORE_PORT={port['containerPort']}" in DOCKERFILE
    (service_port,) = resources["Service"]["spec"]["ports"]
    (endpoint,) = resources["ServiceMonitor"]["spec"]["endpoints"]
    (rule,) = resources["NetworkPolicy"]["spec"]["ingress"]
    assert service_port["targetPort"] == rule["ports"][0]["port"] == port["name"]
    assert endpoint["port"] == service_port["name"]
    probes = {name: one[name]["httpGet"] for name in one if name.endswith("Probe")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/livez",
    }  # fmt: skip
    assert {probe["port"] for probe in probes.values()} == {port["name"]}
    paths = set(create_app(Settings(models_dir=ROOT / "models")).openapi()["paths"])
    assert {"/readyz", "/livez", endpoint["path"]} <= paths


def test_the_pod_is_locked_down_and_runs_as_the_user_of_the_image() -> None:
    pod = files()["Deployment"]["spec"]["template"]["spec"]
    (user,) = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.M)
    context = pod["securityContext"]
    assert (str(context["runAsUser"]), str(context["runAsGroup"])) == user
    assert context["runAsNonRoot"] is True
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    # else the cluster sets OODSCORE_PORT=tcp://..., which is no port
    assert pod["enableServiceLinks"] is False
    (one,) = pod["containers"]
    assert one["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in one["volumeMounts"]}
    assert mounts == {"/models": True, "/tmp": False}  # noqa: S108
    assert "OODSCORE_MODELS_DIR=/models" in DOCKERFILE


def test_there_is_time_to_drain() -> None:
    pod = files()["Deployment"]["spec"]["template"]["spec"]
    given = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}
    known = {f"OODSCORE_{name.upper()}" for name in Settings.model_fields}
    assert set(given) <= known
    needed = sum(float(value) for name, value in given.items() if "SHUTDOWN" in name)
    assert len(given) == 2
    assert pod["terminationGracePeriodSeconds"] > needed
    readiness = pod["containers"][0]["readinessProbe"]
    unready_after = readiness["periodSeconds"] * readiness["failureThreshold"]
    assert float(given["OODSCORE_SHUTDOWN_DELAY_SECONDS"]) >= unready_after


def test_the_autoscaler_reads_a_metric_that_exists_and_the_adapter_hands_on() -> None:
    spec = files()["HorizontalPodAutoscaler"]["spec"]
    (metric,) = spec["metrics"]
    name = metric["pods"]["metric"]["name"]
    registry = CollectorRegistry()
    Metrics(registry)
    families = {family.name: family for family in registry.collect()}
    assert families[name].type == "gauge"
    adapter = yaml.safe_load((FOLDER / "adapter/prometheus-adapter-rules.yaml").read_text())
    (rule,) = adapter["rules"]
    assert rule["seriesQuery"].startswith(f"{name}{{")
    assert rule["name"]["as"] == name
    assert {"namespace", "pod"} == set(rule["resources"]["overrides"])
    assert re.search(r"<<\.Series>>\{<<\.LabelMatchers>>\}", rule["metricsQuery"])
    # replicas are added long before requests are refused
    target = float(metric["pods"]["target"]["averageValue"].removesuffix("m")) / 1000
    assert target < Settings().max_queued_seconds / 10
    assert spec["minReplicas"] > files()["PodDisruptionBudget"]["spec"]["maxUnavailable"]


def test_only_settings_that_exist_are_set() -> None:
    known = {f"OODSCORE_{name.upper()}" for name in Settings.model_fields}
    for path in FOLDER.rglob("kustomization.yaml"):
        for generator in yaml.safe_load(path.read_text()).get("configMapGenerator", []):
            for literal in generator["literals"]:
                assert literal.partition("=")[0] in known


def test_the_page_names_every_overlay() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text()
    for folder in BUILDS:
        assert f"deploy/kubernetes/{folder}" in page
