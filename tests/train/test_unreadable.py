"""Paths that the user may not read: whatever they are for, one line names them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data_files import pets
from lostgan_train.run_file import RUN_FILE
from training import OPTIONS

USES = {
    "data": ["train", "--dry-run", "--out", "run", "--data", "private/pets"],
    "annotations": ["train", "--dry-run", "--out", "run", "--data", "listed"],
    "images": ["train", "--dry-run", "--out", "run", "--data", "pets", "--images", "private/pets/images"],
    "images of the set": ["train", "--dry-run", "--out", "run", "--data", "imageless"],
    "out": ["train", "--out", "private/run", "--data", "pets"],
    "init": ["train", "--dry-run", "--out", "run", "--data", "pets", "--init", "private/weights"],
    "init discriminator": ["train", "--dry-run", "--out", "run", "--data", "pets", "--init-discriminator", "private/w"],
    "perceptual": ["train", "--dry-run", "--out", "run", "--data", "pets", "--perceptual", "private/vgg19.pth"],
    "config": ["train", "--dry-run", "--out", "run", "--data", "pets", "--config", "private/settings.json"],
    "resume": ["train", "--out", "private/run", "--resume"],
    "run file": ["train", "--out", "locked", "--resume"],
    "unlabelled": ["semi", "--out", "run", "--data", "pets", "--unlabelled", "private/pets"],
    "below unlabelled": ["semi", "--out", "run", "--data", "pets", "--unlabelled", "mixed"],
    "import": ["import", "private/weights", "--variant", "v1-64", "--vocabulary", "scenes", "--output", "x"],
    "imported": ["import", "unreadable.pth", "--variant", "v1-64", "--vocabulary", "scenes", "--output", "x"],
    "scenes": ["scenes", "--out", "private/scenes", "--count", "2"],
    "evaluate": ["evaluate", "private/weights.safetensors", "--data", "pets", "--out", "out"],
    "checkpoint": ["evaluate", "unreadable.pth", "--data", "pets", "--out", "out"],
    "evaluated data": ["evaluate", "model.safetensors", "--data", "private/pets", "--out", "out"],
    "evaluated images": ["evaluate", "--images", "private/pets", "--data", "pets", "--out", "out"],
    "weights": ["weights", "--weights", "private/weights"],
}


def private(path: Path) -> None:
    """Make a file or folder another user's, for that user alone."""
    if os.geteuid() == 0:
        shutil.chown(path, 65534, 65534)
    path.chmod(0o700 if os.geteuid() == 0 else 0)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """For each use the exit code and standard error of its command, all in forks of one process without root's right
    to read everything."""
    folder = tmp_path_factory.mktemp("unreadable")
    for name in ("pets", "private/pets", "listed", "imageless", "mixed"):
        pets(folder / name)
    (folder / "mixed/annotations.json").unlink()
    (folder / "locked").mkdir()
    for name in ("unreadable.pth", f"locked/{RUN_FILE}"):
        (folder / name).write_bytes(b"PK\x03\x04")
    for name in ("private", "listed/annotations.json", "imageless/images", "mixed/images"):
        private(folder / name)
    for name in ("unreadable.pth", f"locked/{RUN_FILE}"):
        private(folder / name)
    uses = {
        name: [*words, *(map(str, OPTIONS) if words[0] in ("train", "semi") else ())] for name, words in USES.items()
    }
    uses["perceptual"] += ["--perceptual", "private/vgg19.pth"]
    rights = "-dac_override,-dac_read_search"
    drop = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*drop, sys.executable, "-c", _FORKS, json.dumps(uses)], capture_output=True, text=True, timeout=200, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    answers: dict[str, tuple[int, str]] = json.loads(done.stdout)
    return answers


_FORKS = """
import json, os, sys
import lostgan_train.training
from lostgan_serve.commands import main
answers = {}
for name, words in json.loads(sys.argv[1]).items():
    if not (child := os.fork()):
        log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        try:
            main(words)
        except SystemExit as end:
            os._exit(end.code)
        except BaseException:
            import traceback
            traceback.print_exc()
        os._exit(99)
    _, status = os.waitpid(child, 0)
    answers[name] = os.waitstatus_to_exitcode(status), open("log").read()
print(json.dumps(answers))
"""


@pytest.mark.parametrize("use", USES)
def test_a_path_that_may_not_be_read_is_one_line(use: str, said: dict[str, tuple[int, str]]) -> None:
    code, text = said[use]
    assert code == 2, text
    assert "Traceback" not in text
    line = text.strip().splitlines()[-1]
    assert line.startswith("error: "), text
    assert "ermission denied" in line, text
    assert any(name in line for name in ("private", "unreadable.pth", RUN_FILE, "images", "annotations.json")), text
