"""The container and the cluster, as far as they can be checked without a container engine and without a cluster."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import promql_parser
import pytest
import yaml

from conftest import ROOT, a_manifest
from lostgan_serve import __version__
from lostgan_serve.contract import input_specs
from lostgan_serve.manifest import Manifest
from lostgan_serve.model_folder import ModelFolder
from lostgan_serve.triton import server as triton_server
from lostgan_serve.triton.configuration import write_configuration
from lostgan_serve.triton.server import ADMIN_HEADER, Endpoints, running_server

DEPLOY = ROOT / "deploy"
BASE = DEPLOY / "kubernetes" / "base"
MODEL = "lostgan_128"

GPU_METRICS = {"nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes"}
"""Of Triton's docs/user_guide/metrics.md; a server without a GPU does not show them."""

FAKE_TOOL = f"""\
#!{sys.executable}
import json, os, pathlib, sys, time
folder = pathlib.Path(__file__).parent
name = os.path.basename(__file__)
with open(folder / f"{{name}}.calls", "a") as calls:
    print(json.dumps({{"arguments": sys.argv[1:], "devices": os.environ.get("CUDA_VISIBLE_DEVICES")}}), file=calls)
"""
TRTEXEC = """\
if "--help" in sys.argv:
    print("&&&& RUNNING TensorRT.trtexec [TensorRT v101602] [b10] # trtexec --help")
else:
    plan = next(a.partition("=")[2] for a in sys.argv if a.startswith("--saveEngine="))
    pathlib.Path(plan).write_text("a plan")
"""


# The entry point


class Container:
    """A folder with what the image has: a repository, a cache and tools on PATH."""

    def __init__(self, folder: Path) -> None:
        self.repository, self.cache, self.bin = folder / "models", folder / "plans", folder / "bin"
        self.cache.mkdir()
        self.bin.mkdir()
        self.tool("tritonserver", "")

    def publish(self, weights: bytes = b"onnx", name: str = MODEL, max_batch: int = 4) -> Manifest:
        manifest = a_manifest("scenes", max_batch, "v2-128")
        model = ModelFolder(self.repository / name)
        with model.new_version(replace=True) as version:
            version.onnx.write_bytes(weights)
        write_configuration(model, manifest)
        return manifest

    def tool(self, name: str, code: str) -> None:
        (self.bin / name).write_text(FAKE_TOOL + code)
        (self.bin / name).chmod(0o755)

    def gpus(self, *lines: str) -> None:
        self.tool("nvidia-smi", "".join(f"print({line!r})\n" for line in lines))

    def calls(self, name: str) -> list[dict[str, Any]]:
        path = self.bin / f"{name}.calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def builds(self) -> list[list[str]]:
        return [call["arguments"] for call in self.calls("trtexec") if call["arguments"] != ["--help"]]

    def command(self, *options: str) -> list[str]:
        return [sys.executable, str(DEPLOY / "entrypoint.py"), str(self.repository), str(self.cache), *options]

    def environment(self, **variables: str) -> dict[str, str]:
        return {"PATH": str(self.bin), "TMPDIR": str(self.bin), **variables}

    def start(self, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*options), env=self.environment(**variables), capture_output=True, text=True, timeout=60
        )

    def served(self) -> Path:
        """The repository that the last tritonserver was started with."""
        return Path(self.calls("tritonserver")[-1]["arguments"][0].removeprefix("--model-repository="))


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path)


def test_a_plan_is_built_once_for_a_gpu_and_a_tensorrt(container: Container) -> None:
    manifest = container.publish()
    container.gpus("NVIDIA H100 80GB HBM3, 9.0", "NVIDIA H100 80GB HBM3, 9.0")
    container.tool("trtexec", TRTEXEC)
    first = container.start()
    assert first.returncode == 0, first.stderr
    assert "building a TensorRT plan for NVIDIA-H100-80GB-HBM3-9.0-tensorrt-101602" in first.stderr
    assert container.start().returncode == 0
    (build,) = container.builds()

    def shapes(batch: int) -> str:
        return ",".join(
            f"{spec.name}:{'x'.join(map(str, (batch, *spec.dims)))}" for spec in input_specs(manifest.slots)
        )

    onnx = container.repository / MODEL / "1" / "model.onnx"
    assert build[0] == f"--onnx={onnx}"
    assert build[2:5] == [f"--{name}Shapes={shapes(size)}" for name, size in (("min", 1), ("opt", 2), ("max", 4))]
    exported, served = container.repository / MODEL, container.served() / MODEL
    assert (served / "1" / "model.plan").read_text() == "a plan"
    assert (served / "config.pbtxt").read_bytes() == (exported / "configs" / "tensorrt.pbtxt").read_bytes()
    for file in ("labels.txt", *(f"warmup/{spec.name}" for spec in input_specs(manifest.slots))):
        assert (served / file).read_bytes() == (exported / file).read_bytes()
    assert not list(container.cache.rglob(".tmp-*"))


@pytest.mark.parametrize("change", ["gpu", "tensorrt", "weights", "configuration"])
def test_a_plan_for_something_else_is_not_used(container: Container, change: str) -> None:
    container.publish()
    container.gpus("NVIDIA L4, 8.9")
    container.tool("trtexec", TRTEXEC)
    container.start()
    if change == "gpu":
        container.gpus("NVIDIA T4, 7.5")
    elif change == "tensorrt":
        container.tool("trtexec", TRTEXEC.replace("101602", "110100"))
    elif change == "weights":
        container.publish(b"other weights")
    else:
        container.publish(max_batch=16)
    container.start()
    assert len(container.builds()) == 2


def failures(container: Container) -> Iterator[tuple[str, str]]:
    """Break one thing after the other; what the log has to say about it."""
    yield "no GPU", "nvidia-smi"  # there is no such command yet
    container.gpus()
    yield "no GPU in the container", "no GPU"
    container.gpus("NVIDIA L4, 8.9", "NVIDIA T4, 7.5")
    yield "two models", "NVIDIA L4, 8.9, NVIDIA T4, 7.5"
    container.gpus("NVIDIA L4, 8.9")
    yield "no trtexec", "no trtexec"
    container.tool("trtexec", "print('hello')")
    yield "another trtexec", "which TensorRT"
    container.tool("trtexec", TRTEXEC + "    sys.exit(3)\n")
    yield "a build that fails", "exit code 3"
    container.tool("trtexec", TRTEXEC)
    shutil.rmtree(container.cache)
    container.cache.write_text("not a folder")
    yield "no cache", str(container.cache)


def test_without_a_plan_onnx_runtime_serves(container: Container) -> None:
    container.publish()
    for case, words in failures(container):
        done = container.start()
        assert done.returncode == 0, (case, done.stderr)
        assert re.search(rf"no TensorRT plan: .*{re.escape(words)}.*; serving with ONNX Runtime", done.stderr), (
            case,
            done.stderr,
        )
        assert container.served() == container.repository
        assert container.cache.is_file() or not list(container.cache.rglob("*.plan"))


def test_one_model_without_a_plan_does_not_keep_another_from_its_own(container: Container) -> None:
    container.publish()
    container.publish(name="lostgan_512")
    container.gpus("NVIDIA L4, 8.9")
    container.tool("trtexec", TRTEXEC + "    sys.exit('lostgan_512' in sys.argv[1])\n")
    assert "lostgan_512: no TensorRT plan" in container.start().stderr
    assert (container.served() / MODEL / "1" / "model.plan").is_file()
    assert (container.served() / "lostgan_512").resolve() == container.repository / "lostgan_512"
    arguments = container.calls("tritonserver")[0]["arguments"]
    assert {"--load-model=lostgan_128", "--load-model=lostgan_512"} < set(arguments)


def test_cpu_only(container: Container) -> None:
    container.publish()
    container.gpus("NVIDIA L4, 8.9")
    container.tool("trtexec", TRTEXEC)
    assert container.start(LOSTGAN_SERVE_DEVICE="cpu").returncode == 0
    assert not container.calls("nvidia-smi")
    assert not container.calls("trtexec")
    assert container.calls("tritonserver")[0]["devices"] == ""


@pytest.mark.parametrize(
    ("published", "device", "words"),
    [(True, "tpu", "LOSTGAN_SERVE_DEVICE: 'tpu'"), (False, "gpu", "no exported model")],
)
def test_what_cannot_be_served_ends_in_one_line(container: Container, published: bool, device: str, words: str) -> None:
    if published:
        container.publish()
    done = container.start(LOSTGAN_SERVE_DEVICE=device)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_sigterm_ends_a_build(container: Container) -> None:
    container.publish()
    container.gpus("NVIDIA L4, 8.9")
    container.tool("trtexec", TRTEXEC + "    time.sleep(60)\n")
    process = subprocess.Popen(container.command(), env=container.environment(), stderr=subprocess.DEVNULL)
    for _ in range(600):
        if list(container.cache.rglob("*.plan")):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert not list(container.cache.rglob("*.plan"))
    assert not container.calls("tritonserver")


def test_the_command_line_is_one_that_a_real_server_takes(
    container: Container, tiny_repository: Path, tmp_path: Path
) -> None:
    """The wheel's server, which needs a backend folder and its own configuration besides."""
    wheel = triton_server._find_tritonserver(tmp_path)
    code = f"os.execve({str(wheel.executable)!r}, [name, *sys.argv[1:]], os.environ | {wheel.environment!r})"
    container.tool("tritonserver", code)
    container.repository = tiny_repository
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    options = [*wheel.arguments, f"--http-port={port}", "--allow-grpc=false", "--allow-metrics=false"]
    variables = {"LOSTGAN_SERVE_DEVICE": "cpu", "LOSTGAN_SERVE_ADMIN_KEY": "key"}
    command, environment = container.command(*options), os.environ | container.environment(**variables)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    try:
        while subprocess.run(healthcheck(port), stderr=subprocess.DEVNULL).returncode:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        index = urllib.request.Request(f"http://127.0.0.1:{port}/v2/repository/index", method="POST")
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(index)
        index.add_header(ADMIN_HEADER, "key")
        assert json.load(urllib.request.urlopen(index))[0]["name"] == MODEL
    finally:
        process.terminate()
        assert process.wait(40) == 0
    assert subprocess.run(healthcheck(port), stderr=subprocess.DEVNULL).returncode == 1


def test_the_same_apis_are_locked_as_by_serve(container: Container) -> None:
    container.publish()
    container.start("--log-verbose=1", LOSTGAN_SERVE_ADMIN_KEY="key")
    arguments = container.calls("tritonserver")[0]["arguments"]
    lock = f"{triton_server._ADMIN_APIS}:{ADMIN_HEADER}=key"
    assert f"--http-restricted-api={lock}" in arguments
    assert f"--grpc-restricted-protocol={lock}" in arguments
    assert "--model-control-mode=explicit" in arguments
    assert arguments[-1] == "--log-verbose=1"


# The image


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M))
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in text.splitlines() if line.strip()]


def healthcheck(port: int) -> list[str]:
    """The Dockerfile's command, for another port."""
    (check,) = (text for name, text in instructions() if name == "HEALTHCHECK")
    command = [str(word).replace("8000", str(port)) for word in json.loads(check.partition("CMD")[2])]
    return [sys.executable, *command[1:]]


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run(
        [hadolint, "--failure-threshold", "style", ROOT / "Dockerfile"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_dockerfile() -> None:
    lines = instructions()
    by_name = dict(lines)  # the last of each
    defaults = dict(text.split("=") for name, text in lines if name == "ARG")
    release = re.fullmatch(r"(\d+)\.(\d+)-py3", defaults["TRITON_TAG"])
    assert release
    assert (int(release[1]), int(release[2])) >= (26, 7)
    stages = [text.split()[0] for name, text in lines if name == "FROM"]
    assert stages == ["nvcr.io/nvidia/tritonserver:${TRITON_TAG}"] * 2
    assert by_name["USER"] == "1000:1000"
    script, *folders = json.loads(by_name["ENTRYPOINT"])[1:]
    assert [script, folders[0]] == [text.split()[-1] for name, text in lines if name == "COPY"][:-3:-1]
    assert folders[1] == by_name["VOLUME"]
    assert not re.search(r"https?://(?!127\.0\.0\.1)|curl|wget", (ROOT / "Dockerfile").read_text())


def test_the_build_context_has_what_is_copied() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignore
    let_in = {line[1:] for line in ignore if line.startswith("!")}
    copies = [text.split()[:-1] for name, text in instructions() if name == "COPY" and "--from" not in text]
    copied = {source for sources in copies for source in sources}
    assert copied == let_in
    assert all((ROOT / source).exists() for source in copied)
    # what pip needs to install the package
    folders = re.findall(r'= "(\w+)/lostgan_\w+"', (ROOT / "pyproject.toml").read_text())
    assert {"lostgan_serve", *folders, "pyproject.toml", "README.md", "LICENSE"} <= copied


# The cluster


Manifests = dict[str, dict[str, Any]]


def base_manifests() -> Manifests:
    """By kind; there is one of each."""
    names = kustomization(BASE)["resources"]
    documents = [document for name in names for document in yaml.safe_load_all((BASE / name).read_text())]
    by_kind = {document["kind"]: document for document in documents}
    assert len(by_kind) == len(documents)
    return by_kind


def kustomization(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / "kustomization.yaml").read_text())
    return found


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
    assert list(ports.values()) == [triton_server.HTTP_PORT, triton_server.GRPC_PORT, triton_server.METRICS_PORT]
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
    assert environment.keys() == {"LOSTGAN_SERVE_DEVICE", triton_server.ADMIN_KEY_VARIABLE}
    on_gpu = environment["LOSTGAN_SERVE_DEVICE"]["value"] == "gpu"
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == on_gpu

    startup, readiness, liveness = (container[f"{name}Probe"] for name in ("startup", "readiness", "liveness"))
    for probe, path in ((startup, "ready"), (readiness, "ready"), (liveness, "live")):
        assert probe["httpGet"] == {"path": f"/v2/health/{path}", "port": "http"}
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


# What is measured


def adapter_rules() -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "kubernetes" / "prometheus-adapter.yaml").read_text())[
        "rules"
    ]["custom"]
    return rules


def alerts() -> list[dict[str, Any]]:
    (group,) = base_manifests()["PrometheusRule"]["spec"]["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def expressions() -> dict[str, str]:
    """Every PromQL expression by where it stands, the placeholders of Grafana and prometheus-adapter filled in."""
    found = {alert["alert"]: alert["expr"] for alert in alerts()}
    for rule in adapter_rules():
        found["adapter's series"] = rule["seriesQuery"]
        query = rule["metricsQuery"].replace("<<.LabelMatchers>>", 'namespace="n",pod=~"p"')
        found["adapter's metric"] = query.replace("<<.GroupBy>>", "pod")
    dashboard = json.loads((BASE / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            found[f"{panel['title']} {target['refId']}"] = target["expr"].replace("$__rate_interval", "5m")
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            label_values = re.fullmatch(r"label_values\((.+), \w+\)", variable["query"]["query"])
            assert label_values
            found[f"variable {variable['name']}"] = label_values[1]
    return found


def selectors(expression: str) -> list[promql_parser.VectorSelector]:
    """Raises ValueError where it is no PromQL."""
    found: list[promql_parser.VectorSelector] = []

    def visit(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


@pytest.fixture(scope="module")
def server(tiny_repository: Path) -> Iterator[Endpoints]:
    with running_server(tiny_repository) as endpoints:
        yield endpoints


def test_expressions_ask_for_what_a_server_exposes(server: Endpoints) -> None:
    text = urllib.request.urlopen(f"http://{server.metrics}/metrics").read().decode()
    series = re.findall(r"^(nv_\w+)(?:\{(.*)\})? ", text, re.M)
    labels: dict[str, dict[str, set[str]]] = {name: {} for name in GPU_METRICS}
    for name, pairs in series:
        for label, value in re.findall(r'(\w+)="([^"]*)"', pairs):
            labels.setdefault(name, {}).setdefault(label, set()).add(value)
    used: set[str] = set()
    for where, expression in expressions().items():
        found = selectors(expression)
        assert found, where
        for selector in found:
            assert selector.name in labels, (where, selector.name)
            used.add(str(selector.name))
            for matcher in selector.matchers.matchers:
                if matcher.name in ("namespace", "pod"):  # the ServiceMonitor adds these
                    continue
                values = labels[str(selector.name)][matcher.name]
                if "$" not in matcher.value:
                    assert any(re.fullmatch(matcher.value, value) for value in values), (where, matcher)
    assert {"nv_inference_queue_duration_us", "nv_inference_request_success"} <= used


def test_alerts() -> None:
    names = [alert["alert"] for alert in alerts()]
    assert len(set(names)) == len(names)
    for alert in alerts():
        assert alert.keys() == {"alert", "expr", "for", "labels", "annotations"}
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert re.fullmatch(r"\d+m", alert["for"])
        # a summary may name only labels that the expression keeps
        wanted = set(re.findall(r"\$labels\.(\w+)", alert["annotations"]["summary"]))
        kept = re.search(r"by \(([\w, ]+)\)", alert["expr"])
        assert wanted <= (set(kept[1].split(", ")) if kept else set())


def test_dashboard() -> None:
    dashboard = json.loads((BASE / "dashboard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) - {"__rate_interval"} <= variables
