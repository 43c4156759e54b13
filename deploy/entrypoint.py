"""What the container runs: a TensorRT plan for the GPU at hand, where there is one, and then tritonserver.

    entrypoint.py REPOSITORY CACHE [OPTION ...]

REPOSITORY is what `lostgan-serve export` made and is only read. CACHE keeps plans between starts. Options are passed on
to tritonserver. LOSTGAN_SERVE_DEVICE is gpu or cpu; LOSTGAN_SERVE_ADMIN_KEY as for `lostgan-serve serve`.

A plan is good for one GPU model and one TensorRT only, so it is built where it is used, by the image's own trtexec: its
TensorRT is the one that Triton's backend loads, and `lostgan-serve export --target tensorrt` would bring torch and a
second TensorRT into the image. Where no plan can be had, ONNX Runtime serves the model. Standard library only, for the
same reason: the image needs nothing but this file and the models.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

ADMIN_APIS = "model-repository,shared-memory,trace,logging"
ADMIN_HEADER = "lostgan-serve-admin-key"
BUILD_TIMEOUT_S = 900  # the probes of deploy/kubernetes and the Dockerfile wait longer
QUERY_TIMEOUT_S = 60


class PlanError(Exception):
    """Why there is no plan; ends a line of the log."""


def main(repository: Path, cache: Path, options: list[str]) -> NoReturn:
    """Replace this process by tritonserver on every model of the repository."""
    # PID 1 ignores SIGTERM unless it has a handler; this one ends a build, and exec puts the default back
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    models = find_models(repository)
    device = os.environ.get("LOSTGAN_SERVE_DEVICE", "gpu")
    if device not in ("gpu", "cpu"):
        sys.exit(f"error: LOSTGAN_SERVE_DEVICE: {device!r} is no device; give gpu or cpu")
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # also where the machine shows its GPUs to every container
        log("LOSTGAN_SERVE_DEVICE is cpu: serving with ONNX Runtime on the CPU")
    elif plans := find_or_build(models, cache):
        repository = _joined(repository, models, plans)
    key = os.environ.get("LOSTGAN_SERVE_ADMIN_KEY") or secrets.token_urlsafe(24)
    command = [
        "tritonserver",
        f"--model-repository={repository}",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in models),
        f"--http-restricted-api={ADMIN_APIS}:{ADMIN_HEADER}={key}",
        f"--grpc-restricted-protocol={ADMIN_APIS}:{ADMIN_HEADER}={key}",
        *options,
    ]
    os.execvp(command[0], command)


def find_models(repository: Path) -> dict[str, Path]:
    """The ONNX file of each model's newest version, by the model's name.

    Ends this process with one line where there is no model, or where Triton would take a folder for a newer version: it
    reads the digits in front of a name such as "2_test".
    """
    models = {}
    for folder in sorted(repository.glob("*")):
        versions = {path: int(re.split("[^0-9]", path.name)[0]) for path in folder.glob("[1-9]*") if path.is_dir()}
        exported = [p for p, number in versions.items() if p.name == str(number) and (p / "model.onnx").is_file()]
        if not exported:
            continue
        newest = max(exported, key=versions.__getitem__)
        if stray := [path for path, number in versions.items() if number > versions[newest]]:
            sys.exit(
                f"error: {stray[0]}: Triton would take this folder for a version of the model, and it is none that "
                "export made; move it out of the model's folder"
            )
        models[folder.name] = checked(newest / "model.onnx")
    if not models:
        sys.exit(f"error: {repository}: no exported model in this repository; make one with: lostgan-serve export")
    return models


def checked(model: Path) -> Path:
    """The file of a model. Ends this process with one line where it is not the one that export made."""
    manifest = model.with_name("manifest.json")
    try:
        expected = json.loads(manifest.read_bytes()).get("onnx_sha256")
    except (OSError, ValueError, AttributeError) as error:
        sys.exit(f"error: {manifest}: cannot be read ({error}); export the model again")
    if expected not in (None, hashlib.sha256(model.read_bytes()).hexdigest()):
        sys.exit(f"error: {model}: is not the file that export made (its sha256 differs); export it again")
    return model


def find_or_build(models: dict[str, Path], cache: Path) -> dict[str, Path]:
    """The folders of the models that have a plan, by name; the log says why the others have none."""
    try:
        gpu, trtexec = find_gpu(), find_trtexec()
        version = tensorrt_version(trtexec)
    except PlanError as error:
        log(f"no TensorRT plan: {error}; serving with ONNX Runtime")
        return {}
    plans = {}
    for name, model in models.items():
        try:
            plans[name] = find_plan(name, model, cache, f"{gpu}-tensorrt-{version}", trtexec)
            log(f"{name}: serving with TensorRT, {plans[name]}")
        except (PlanError, OSError) as error:
            log(f"{name}: no TensorRT plan: {error}; serving with ONNX Runtime")
    return plans


def find_gpu() -> str:
    """The model of the visible GPUs, fit for a file name. Raises PlanError where there is none, or several models."""
    # nvidia-smi is put into a container together with the GPUs
    lines = set(_output("nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader").splitlines())
    if len(lines) != 1:
        raise PlanError(f"one plan cannot serve different GPUs ({', '.join(sorted(lines))})" if lines else "no GPU")
    return re.sub(r"[^\w.]+", "-", lines.pop().strip())


def find_trtexec() -> str:
    """Where trtexec is. Raises PlanError where it is not."""
    if found := shutil.which("trtexec", path=f"{os.environ.get('PATH', '')}:/usr/src/tensorrt/bin"):
        return found
    raise PlanError("the image has no trtexec")


def tensorrt_version(trtexec: str) -> str:
    """As trtexec's first line has it, such as 101602. Raises PlanError."""
    if found := re.search(r"\[TensorRT v([\d.]+)\]", _output(trtexec, "--help")):
        return found[1]
    raise PlanError(f"{trtexec} does not say which TensorRT it is of")


def find_plan(name: str, model: Path, cache: Path, target: str, trtexec: str) -> Path:
    """The folder, in the cache, of the model with its plan; built where it is not there. Raises PlanError, OSError."""
    configuration = (model.parents[1] / "configs" / "tensorrt.pbtxt").read_text()
    # with new weights or another batch size the old plan is another model's
    digest = hashlib.sha256(model.read_bytes() + configuration.encode()).hexdigest()[:16]
    folder = cache / f"{target}-{digest}" / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.parent / f".tmp-{os.uname().nodename}"  # a pod's own, also after a restart
    shutil.rmtree(scratch, ignore_errors=True)  # of a build that was killed
    try:
        work = scratch / name
        # labels and the warm-up's layout stay; versions and other configurations do not
        shutil.copytree(model.parents[1], work, ignore=shutil.ignore_patterns("[0-9]*", "configs", "timing.cache"))
        (work / "config.pbtxt").write_text(configuration)
        (work / model.parent.name).mkdir()
        log(f"{name}: building a TensorRT plan for {target}; this takes minutes, the next start will find it")
        command = build_command(trtexec, model, work / model.parent.name / "model.plan", configuration)
        try:
            code = subprocess.run(command, stdout=sys.stderr, timeout=BUILD_TIMEOUT_S).returncode
        except subprocess.TimeoutExpired:
            raise PlanError(f"trtexec was not done after {BUILD_TIMEOUT_S} s") from None
        if code:
            raise PlanError(f"trtexec ended with exit code {code}, see above")
        try:
            work.rename(folder)  # whole or not at all
        except OSError:
            if not folder.is_dir():  # another pod that shares the cache was faster: its plan is as good
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def build_command(trtexec: str, model: Path, plan: Path, configuration: str) -> list[str]:
    """trtexec, told what `lostgan_export.engine` tells TensorRT: any batch up to the largest, best at half of it."""
    # our own writer's text, always in this form; so shapes are not stated a second time
    inputs = re.findall(r'^input \{\n  name: "(\w+)"\n  data_type: \w+\n  dims: \[([\d, ]+)\]', configuration, re.M)
    largest = re.search(r"^max_batch_size: (\d+)$", configuration, re.M)
    if not inputs or not largest:
        raise PlanError("tensorrt.pbtxt is not of the form that `lostgan-serve export` writes")
    batch = int(largest[1])

    def shapes(size: int) -> str:
        return ",".join(f"{name}:{'x'.join([str(size), *dims.split(', ')])}" for name, dims in inputs)

    return [
        trtexec,
        f"--onnx={model}",
        f"--saveEngine={plan}",
        f"--minShapes={shapes(1)}",
        f"--optShapes={shapes(max(1, batch // 2))}",
        f"--maxShapes={shapes(batch)}",
        "--stronglyTyped",  # the precision is that of the ONNX file
        "--noTF32",
        "--skipInference",
    ]


def log(line: str) -> None:
    """Say on standard error what is served, and how."""
    print(f"lostgan-serve: {line}", file=sys.stderr, flush=True)


def _joined(repository: Path, models: dict[str, Path], plans: dict[str, Path]) -> Path:
    """A repository that links to each model's folder: the one with a plan, or else the exported one."""
    joined = Path(tempfile.mkdtemp(prefix="lostgan-serve-"))
    for name in models:
        (joined / name).symlink_to(plans.get(name, repository / name).resolve())
    return joined


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=QUERY_TIMEOUT_S).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise PlanError(f"no answer from {command[0]} ({error})") from error


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: entrypoint.py REPOSITORY CACHE [OPTION OF TRITONSERVER ...]")
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
