"""The container's image, as far as it can be checked without a container engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from conftest import ROOT
from deployment import instructions


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
