"""Model files that are damaged, cut off, or changed under a server that starts again: refused, or the right pictures.

A damaged file may do no harm: one bit of a comment is none. No picture may be a wrong one, whatever was damaged.
"""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import pytest

from conftest import run_cli
from faults.injectors import damage, replace_file
from faults.load import ALL_LAYOUTS, compare_folders, same_picture
from faults.serving import Serve
from faults.trial import Trial
from lostgan_serve.vocabulary import Vocabulary

MODEL = "lostgan_128"

_SERVED = ("1/model.onnx", "1/manifest.json", "1/model.py", "configs/embedded.pbtxt", "labels.txt", "warmup/labels")
_DAMAGE = ("bit", "end", "zeros", "empty")
_ROUNDS = 3
_LIMIT_S = 200


@pytest.mark.long
@pytest.mark.parametrize("file", _SERVED[:2])
@pytest.mark.parametrize("how", _DAMAGE)
def test_damaged_model_in_this_process(trial: Trial, repository: Path, file: str, how: str) -> None:
    for number in range(_ROUNDS):
        path, out = repository / MODEL / file, trial.folder / f"out-{number}"
        shutil.copy(trial.model / file, path)
        damage(path, how, trial.draw)
        trial.tally.faults += 1
        done = trial.run("generate", *ALL_LAYOUTS, "--model", repository / MODEL, "--out", out)
        if done.returncode:
            trial.check_told(done, str(path.name))
            assert not list(out.glob("*")), "pictures of a damaged model"
        else:
            compare_folders(out, trial.pictures, trial.tally)


@pytest.mark.long
@pytest.mark.parametrize("file", _SERVED)
@pytest.mark.parametrize("how", _DAMAGE)
def test_damaged_model_on_a_server(trial: Trial, repository: Path, file: str, how: str) -> None:
    damage(repository / MODEL / file, how, trial.draw)
    trial.tally.faults += 1
    server = trial.serve(repository)
    if server.start():
        try:
            right_or_refused(trial, server)
        finally:
            server.stop()
    else:
        trial.check_told(server.ended())


@pytest.mark.long
@pytest.mark.parametrize("file", ["1/model.onnx", "1/manifest.json", "configs/embedded.pbtxt"])
@pytest.mark.parametrize("how", ["bit", "end"])
def test_model_is_damaged_before_a_server_starts_again(trial: Trial, repository: Path, file: str, how: str) -> None:
    """The server checked its files when it started first; the stub that takes a dead one's place reads them anew."""
    with trial.serve(repository) as server:
        damage(repository / MODEL / file, how, trial.draw)
        server.hit("stub", signal.SIGKILL)
        trial.tally.faults += 1
        time.sleep(8)
        right_or_refused(trial, server)


def right_or_refused(trial: Trial, server: Serve) -> None:
    """A client has the right pictures, or none and a line that says why."""
    out = trial.folder / "out"
    done = trial.run("client", *ALL_LAYOUTS, "--url", server.urls[0], "--out", out, "--patience", 10)
    if done.returncode:
        trial.check_told(done)
        assert not list(out.glob("*")), "pictures of a damaged model"
    else:
        compare_folders(out, trial.pictures, trial.tally)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with another model of the same name and shapes."""
    from lostgan_train.networks.checkpoint import random_checkpoint, save_checkpoint

    folder = tmp_path_factory.mktemp("other")
    checkpoint = folder / "other.safetensors"
    save_checkpoint(checkpoint, random_checkpoint("v2-128", Vocabulary.built_in("scenes"), seed=1, ch=4))
    run_cli("export", "--checkpoint", checkpoint, "--repository", folder / "repository", check=True)
    return folder / "repository"


@pytest.mark.long
def test_other_model_takes_the_place_of_the_served_one(trial: Trial, repository: Path, other: Path) -> None:
    """Its files are swapped one after another, while the server starts again and a client asks."""
    files = [path.relative_to(other) for path in other.rglob("*") if path.is_file()]
    with trial.serve(repository) as server:
        client = trial.client(server.urls[0])
        server.hit("stub", signal.SIGKILL)
        for file in trial.draw.sample(files, len(files)):
            time.sleep(trial.draw.uniform(0, 0.5))
            replace_file(repository / file, (other / file).read_bytes())
            trial.tally.faults += 1
        client.process.wait(_LIMIT_S)
    found = list(client.folder.glob("*.png"))
    trial.tally.answered += len(found)
    trial.tally.wrong += [path.name for path in found if not same_picture(path, trial.pictures / path.name)]
