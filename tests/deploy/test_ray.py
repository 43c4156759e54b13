"""The job for a Ray cluster, as far as it can be checked without one."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from conftest import ROOT
from deployment import DEPLOY, Manifests, instructions, kustomization
from documents import calls, check_call
from lostgan_serve import __version__

RAY = DEPLOY / "ray"
NAME = "lostgan-synthesize"
SCHEMA = json.loads(Path(__file__).with_name("rayjob.schema.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def manifests() -> Manifests:
    """By kind; there is one of each."""
    names = kustomization(RAY)["resources"]
    return {one["kind"]: one for name in names for one in yaml.safe_load_all((RAY / name).read_text("utf-8"))}


def templates(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The pods of a job: the one that submits it, the head and the workers."""
    cluster = job["spec"]["rayClusterSpec"]
    groups = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    head = cluster["headGroupSpec"]["template"]
    return {"submitter": job["spec"]["submitterPodTemplate"], "head": head, **groups}


def test_manifests_are_valid(manifests: Manifests) -> None:
    assert manifests.keys() == {"PersistentVolumeClaim", "NetworkPolicy", "RayJob"}
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(manifests["RayJob"], SCHEMA)
    pods = {
        name: {"apiVersion": "v1", "kind": "Pod", **pod, "metadata": {"name": name, **pod["metadata"]}}
        for name, pod in templates(manifests["RayJob"]).items()
    }
    own = [document for kind, document in manifests.items() if kind != "RayJob"]
    for document in (*pods.values(), *own):
        for version in ("1.33", kubernetes_validate.latest_version()):
            kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (["spec", "shutdownAfterJobFinishes"], False),  # and there is a time after which to delete the cluster
        (["spec", "shutdownAfterJobFinished"], True),
        (["spec", "rayClusterSpec", "workerGroupSpec"], []),
        (["spec", "rayClusterSpec", "rayVersion"], 2.6),
        (["spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"], 0),
        (["spec", "rayClusterSpec", "workerGroupSpecs", 0, "replicas"], "4"),
        (["apiVersion"], "ray.io/v1alpha1"),
    ],
)
def test_the_schema_finds_faults(manifests: Manifests, place: list[str], value: object) -> None:
    job = copy.deepcopy(manifests["RayJob"])
    *path, last = place
    inner: Any = job
    for key in path:
        inner = inner[key]
    inner[last] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, SCHEMA)


def test_manifests_fit_together(manifests: Manifests) -> None:
    job, claim, policy = manifests["RayJob"], manifests["PersistentVolumeClaim"], manifests["NetworkPolicy"]
    labels = {"app.kubernetes.io/name": NAME}
    for document in manifests.values():
        assert document["metadata"] == {"name": NAME, "labels": labels}
    assert policy["spec"]["podSelector"]["matchLabels"] == labels
    inside, operator = policy["spec"]["ingress"]
    assert inside == {"from": [{"podSelector": {"matchLabels": labels}}]}
    dashboard = next(port for port in head(job)["ports"] if port["name"] == "dashboard")
    assert operator["ports"] == [{"port": dashboard["containerPort"]}]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for name, pod in templates(job).items():
        (container,) = pod["spec"]["containers"]
        assert pod["metadata"]["labels"] == labels
        assert container["image"] == NAME
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert mounts.keys() == ({"/tmp"} if name == "submitter" else {"/tmp", "/data"})
        if name != "submitter":
            assert mounts["/data"]["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]  # actors are counted when the job starts
    (image,) = kustomization(RAY)["images"]
    assert image == {"name": NAME, "newTag": __version__}


def head(job: dict[str, Any]) -> dict[str, Any]:
    (container,) = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def test_the_job_s_command(manifests: Manifests) -> None:
    entrypoint = manifests["RayJob"]["spec"]["entrypoint"]
    (arguments,) = calls(entrypoint)
    check_call(arguments)
    options = dict(pairwise(arguments))
    assert options["--engine"] == "ray"
    assert options["--out"].startswith("/data/")
    assert arguments[1].startswith("/data/")
    (models,) = [text.split()[-1] for name, text in instructions(RAY / "Dockerfile") if "--from=models" in text]
    assert options["--model"].startswith(f"{models}/lostgan_")


def test_pods_suit_the_image(manifests: Manifests) -> None:
    lines = instructions(RAY / "Dockerfile")
    user, group = dict(lines)["USER"].split(":")
    for pod in templates(manifests["RayJob"]).values():
        spec = pod["spec"]
        assert not spec["automountServiceAccountToken"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] == int(user)
        assert spec["securityContext"]["runAsGroup"] == spec["securityContext"]["fsGroup"] == int(group)
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.M)
    assert pinned
    assert manifests["RayJob"]["spec"]["rayClusterSpec"]["rayVersion"] == pinned[1]
    environment = dict(word.split("=") for name, text in lines if name == "ENV" for word in text.split())
    assert environment == {"HOME": "/tmp", "RAY_USAGE_STATS_ENABLED": "0"}  # all but /tmp is read-only


def test_dockerfile() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    command = [str(hadolint), "--failure-threshold", "style", str(RAY / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    lines = instructions(RAY / "Dockerfile")
    copied = {source for name, text in lines if name == "COPY" and "--from" not in text for source in text.split()[:-1]}
    assert copied == let_in - {"deploy/entrypoint.py", "deploy/probe.py"}
    defaults = dict(text.split("=") for name, text in lines if name == "ARG")
    assert defaults == {"MODELS": f"lostgan-serve:{__version__}"}
    served = [text.split()[-1] for name, text in instructions() if name == "COPY"]
    (models,) = [text.split()[1] for name, text in lines if "--from=models" in text]
    assert models in served
