"""The cluster's manifests, as far as they can be checked without a cluster."""

from __future__ import annotations

import json
import re
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from deployment import BASE, DEPLOY, Manifests, adapter_rules, base_manifests, instructions, kustomization
from lostgan_serve import __version__
from lostgan_serve.choices import GRPC_PORT, HTTP_PORT, METRICS_PORT
from lostgan_serve.triton.server import ADMIN_KEY_VARIABLE


def cpu_manifests() -> Manifests:
    """The overlay applied to the base, as far as kustomize's language is used there."""
    manifests = base_manifests()
    for entry in kustomization(DEPLOY / "kubernetes" / "cpu")["patches"]:
        patch = yaml.safe_load(entry["patch"])
        if isinstance(patch, dict):
            assert patch["$patch"] == "delete"
            assert manifests.pop(patch["kind"])["metadata"]["name"] == patch["metadata"]["name"]
            continue
        target = manifests[entry["target"]["kind"]]
        assert target["metadata"]["name"] == entry["target"]["name"]
        for operation in patch:
            *path, last = (int(key) if key.isdecimal() else key for key in operation["path"].split("/")[1:])
            place: Any = target
            for key in path:
                place = place[key]
            if operation["op"] == "replace":
                assert place[last]
            else:
                assert operation["op"] == "add"
                assert last not in place
            place[last] = operation["value"]
    return manifests


@pytest.fixture(params=["base", "cpu"])
def manifests(request: pytest.FixtureRequest) -> Manifests:
    return base_manifests() if request.param == "base" else cpu_manifests()


def test_manifests_are_valid(manifests: Manifests) -> None:
    for kind, document in manifests.items():
        if not document["apiVersion"].startswith("monitoring.coreos.com/"):  # the operator's, not Kubernetes' own
            for version in ("1.33", kubernetes_validate.latest_version()):
                kubernetes_validate.validate(document, version, strict=True)
        assert document["metadata"]["labels"] == {"app.kubernetes.io/name": "lostgan-serve"}, kind


def test_manifests_fit_together(manifests: Manifests) -> None:
    deployment = manifests["Deployment"]
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert manifests["Service"]["spec"]["selector"] == labels
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    assert manifests["ServiceMonitor"]["spec"]["selector"]["matchLabels"] == manifests["Service"]["metadata"]["labels"]

    autoscaler = manifests["HorizontalPodAutoscaler"]["spec"]
    assert autoscaler["scaleTargetRef"] == {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": deployment["metadata"]["name"],
    }
    assert "replicas" not in deployment["spec"]
    assert autoscaler["minReplicas"] > manifests["PodDisruptionBudget"]["spec"]["maxUnavailable"]
    (rule,) = adapter_rules()
    assert [metric["pods"]["metric"]["name"] for metric in autoscaler["metrics"]] == [rule["name"]["as"]]

    (container,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert list(ports.values()) == [HTTP_PORT, GRPC_PORT, METRICS_PORT]
    service = manifests["Service"]["spec"]["ports"]
    assert {port["name"]: port["port"] for port in service} == ports
    assert all(port["targetPort"] == port["name"] for port in service)
    assert [endpoint["port"] for endpoint in manifests["ServiceMonitor"]["spec"]["endpoints"]] == ["metrics"]
    open_ports = [port["port"] for rule in manifests["NetworkPolicy"]["spec"]["ingress"] for port in rule["ports"]]
    assert sorted(open_ports) == sorted(ports)

    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
    claims = {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v}
    assert claims == {m["metadata"]["name"] for k, m in manifests.items() if k == "PersistentVolumeClaim"}


def test_pods_suit_the_image(manifests: Manifests) -> None:
    spec = manifests["Deployment"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    user, group = dict(instructions())["USER"].split(":")
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["runAsUser"] == int(user)
    assert spec["securityContext"]["runAsGroup"] == spec["securityContext"]["fsGroup"] == int(group)
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {dict(instructions())["VOLUME"], "/tmp"}
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys() & container["resources"]["limits"].keys()
    environment = {variable["name"]: variable for variable in container["env"]}
    assert environment.keys() == {"LOSTGAN_SERVE_DEVICE", ADMIN_KEY_VARIABLE}
    on_gpu = environment["LOSTGAN_SERVE_DEVICE"]["value"] == "gpu"
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == on_gpu

    startup, readiness, liveness = (container[f"{name}Probe"] for name in ("startup", "readiness", "liveness"))
    for probe in (startup, readiness):
        assert probe["httpGet"] == {"path": "/v2/health/ready", "port": "http"}
    check = json.loads(dict(instructions())["HEALTHCHECK"].partition("CMD")[2])
    assert liveness["exec"]["command"] == check
    assert liveness["timeoutSeconds"] > int(
        re.findall(r"^TIMEOUT_S = (\d+)", (DEPLOY / "probe.py").read_text(), re.M)[0]
    )
    build = re.search(r"^BUILD_TIMEOUT_S = (\d+)", (DEPLOY / "entrypoint.py").read_text(), re.M)
    assert build
    assert startup["periodSeconds"] * startup["failureThreshold"] > int(build[1]) + 120
    assert re.search(r"--start-period=(\d+)m", dict(instructions())["HEALTHCHECK"])
    sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] > sleep + 30


def test_kustomizations_name_what_is_there() -> None:
    base, cpu = kustomization(BASE), kustomization(DEPLOY / "kubernetes" / "cpu")
    for folder, entry in ((BASE, base), (DEPLOY / "kubernetes" / "cpu", cpu)):
        assert all((folder / name).exists() for name in entry["resources"])
    (image,) = base["images"]
    assert image == {"name": "lostgan-serve", "newTag": __version__}
    (container,) = base_manifests()["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == image["name"]
    (dashboards,) = base["configMapGenerator"]
    assert dashboards["files"] == ["dashboard.json"]
