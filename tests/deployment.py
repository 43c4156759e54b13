"""The files of the container and the cluster, read."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from conftest import ROOT

DEPLOY = ROOT / "deploy"
BASE = DEPLOY / "kubernetes" / "base"

Manifests = dict[str, dict[str, Any]]


def instructions(dockerfile: Path = ROOT / "Dockerfile") -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", dockerfile.read_text("utf-8"), flags=re.M))
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in text.splitlines() if line.strip()]


def healthcheck(repository: Path, port: int) -> list[str]:
    """The Dockerfile's command, for another place and port."""
    (check,) = (text for name, text in instructions() if name == "HEALTHCHECK")
    _, program, _ = json.loads(check.partition("CMD")[2])
    return [sys.executable, str(DEPLOY / Path(program).name), str(repository), f"127.0.0.1:{port}"]


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


def adapter_rules() -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "kubernetes" / "prometheus-adapter.yaml").read_text())[
        "rules"
    ]["custom"]
    return rules
