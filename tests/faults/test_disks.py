"""Disks that fill up under every command that writes: a line that says so, nothing half written, and all of it once
there is room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from beach import beach_layouts, write_samples
from conftest import EXAMPLES, ROOT, run_cli, tree
from faults.injectors import small_disk
from faults.load import ALL_LAYOUTS, compare_folders
from faults.trial import Trial
from lostgan_evaluate.gaugan.network import WITH_EDGES, GauGAN
from official_state import official_state

Words = Callable[[Trial, Path], list[object]]
"""The words of a command that writes into the given folder."""

_COAST, _FARM = ROOT / "examples" / "coast.json", ROOT / "examples" / "farm.json"
_TRAINING = ("--variant", "v1-64", "--ch", 2, "--batch", 4, "--perceptual", "none", "--workers", 0, "--steps", 2)
_PLAN = ("synthesize", *EXAMPLES, "--per-layout", 99)
_LOG = "events.out.tfevents"  # TensorBoard's, with process and time in its name
_FULL = ("No space left", "free some space", "disk is full")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few scenes to train and to measure on."""
    folder = tmp_path_factory.mktemp("scenes") / "scenes"
    run_cli("scenes", "--out", folder, "--count", 24, "--res", 64, "--workers", 1, check=True)
    return folder


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held-out") / "scenes"
    run_cli("scenes", "--out", folder, "--count", 12, "--res", 64, "--workers", 1, "--held-out", check=True)
    return folder


@pytest.fixture(scope="module")
def evaluation(data: Path, small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    run_cli("evaluate", small_checkpoint, *_measuring(data), "--out", folder, check=True)
    return folder / "evaluation.json"


def _measuring(data: Path) -> list[object]:
    return ["--data", data, "--split", "train", "--samples", 1, "--metrics", "prdc"]


def _of_a_model(*words: object) -> Words:
    return lambda trial, out: [*words, "--model", trial.model, "--out", out]


WRITERS: dict[str, tuple[Words, tuple[int, ...]]] = {
    "generate": (_of_a_model("generate", *ALL_LAYOUTS), (8, 64, 700)),
    "morph": (_of_a_model("morph", _COAST), (8, 64)),
    "styles": (_of_a_model("styles", _COAST), (8, 64)),
    "compare": (_of_a_model("compare", _COAST, _FARM), (8, 64)),
    "synthesize": (
        _of_a_model("synthesize", *EXAMPLES, "--per-layout", 6, "--shard-size", 10, "--format", "coco,yolo,webdataset"),
        (8, 64, 400, 900),
    ),
    "synthesize plan": (
        lambda trial, out: [*_PLAN, "--model", trial.model, "--plan-only", out / "p.jsonl"],
        (8, 64),
    ),
    "scenes": (lambda _, out: ["scenes", "--out", out, "--count", 24, "--res", 64, "--workers", 1], (8, 64)),
}


@pytest.mark.long
@pytest.mark.parametrize(("name", "kib"), [(name, kib) for name, (_, sizes) in WRITERS.items() for kib in sizes])
def test_disk_fills_up(trial: Trial, name: str, kib: int) -> None:
    words, _ = WRITERS[name]
    fills_up(trial, words, kib)


@pytest.mark.long
@pytest.mark.parametrize("kib", [8, 100, 1000])
def test_disk_fills_up_while_training(trial: Trial, data: Path, kib: int) -> None:
    """A run goes on, by its own settings, from what was written."""
    resumed: Words = lambda _, out: ["train", "--resume", "--out", out]  # noqa: E731
    fills_up(trial, lambda _, out: ["train", *_TRAINING, "--data", data, "--out", out], kib, resumed)
    weights = [(trial.folder / name / "generator.safetensors").read_bytes() for name in ("room", "right")]
    trial.tally.wrong += ["generator.safetensors"] * (weights[0] != weights[1])


@pytest.mark.long
@pytest.mark.parametrize("kib", [8, 64, 200])
def test_disk_fills_up_while_measuring(trial: Trial, data: Path, small_checkpoint: Path, kib: int) -> None:
    fills_up(trial, lambda _, out: ["evaluate", small_checkpoint, *_measuring(data), "--out", out], kib)


@pytest.mark.long
@pytest.mark.parametrize("kib", [8, 1000, 80_000])
def test_disk_fills_up_under_a_semi_supervised_run(trial: Trial, data: Path, kib: int) -> None:
    """The state of a detector takes more than the largest of these disks."""
    words = ("semi", *_TRAINING, "--threshold", 0.002, "--detector-steps", 2, "--detector-batch", 2, "--data", data)
    resumed: Words = lambda _, out: ["semi", "--resume", "--out", out]  # noqa: E731
    fills_up(trial, lambda _, out: [*words, "--out", out], kib, resumed)


@pytest.mark.long
@pytest.mark.parametrize("kib", [8, 100, 1000])
def test_disk_fills_up_under_an_experiment(trial: Trial, data: Path, held_out: Path, kib: int) -> None:
    """The same command goes on."""
    words = ("experiment", "table1", "--rows", "real-64,v1-64", "--seeds", 1, *_TRAINING[2:], "--samples", 1)
    places = ("--data", data, "--held-out", held_out, "--metrics", "is,kid")
    fills_up(trial, lambda _, out: [*words, *places, "--out", out], kib)


@pytest.mark.long
def test_disk_fills_up_under_a_measurement_of_edits(
    trial: Trial, data: Path, held_out: Path, small_checkpoint: Path
) -> None:
    words = ("reconfigure", small_checkpoint, "--data", held_out, "--training-data", data, "--count", 4)
    fills_up(trial, lambda _, out: [*words, "--out", out], 1)


@pytest.mark.long
@pytest.mark.parametrize("kib", [8, 100])
def test_disk_fills_up_under_gaugan(trial: Trial, small_checkpoint: Path, kib: int) -> None:
    samples, weights = trial.folder / "samples", trial.folder / "latest_net_G.pth"
    write_samples(samples, beach_layouts())
    torch.manual_seed(0)
    torch.save(GauGAN(WITH_EDGES, 1).state_dict(), weights)
    fills_up(trial, lambda _, out: ["gaugan", samples, "--weights", weights, "--out", out], kib)


@pytest.mark.long
def test_disk_fills_up_under_an_import(trial: Trial, official_shapes: dict[str, dict[str, list[int]]]) -> None:
    state = official_state(official_shapes["generator_v1_64"])
    torch.save({name: torch.from_numpy(array) for name, array in state.items()}, weights := trial.folder / "G.pth")
    words = ("import", weights, "--variant", "v1-64", "--vocabulary", "coco-stuff", "--output")
    fills_up(trial, lambda _, out: [*words, out / "model.safetensors"], 100)


@pytest.mark.long
@pytest.mark.parametrize("kib", [8, 300])
def test_disk_fills_up_under_an_export(trial: Trial, small_checkpoint: Path, kib: int) -> None:
    fills_up(trial, lambda _, out: ["export", "--checkpoint", small_checkpoint, "--repository", out], kib)


@pytest.mark.long
def test_disk_fills_up_under_a_report(trial: Trial, evaluation: Path) -> None:
    fills_up(trial, lambda _, out: ["report", evaluation, "--out", out / "report.html"], 8)


@pytest.mark.long
@pytest.mark.parametrize("kib", [8, 700])
def test_disk_fills_up_under_a_client(trial: Trial, kib: int) -> None:
    with trial.serve() as server:
        fills_up(trial, lambda _, out: ["client", *ALL_LAYOUTS, "--url", server.urls[0], "--out", out], kib)
        compare_folders(trial.folder / "room", trial.pictures, trial.tally)


def fills_up(trial: Trial, words: Words, kib: int, again: Words | None = None) -> None:
    """Run a command on a disk of `kib` KiB, then on one with room to go on from what was left, and compare the result
    with that of a command which had room at once. again: the command that goes on, where it is another."""
    small, room, right = trial.folder / "small", trial.folder / "room", trial.folder / "right"
    trial.tally.faults += 1
    done = trial.run(*words(trial, small), prefix=small_disk(small, kib))
    trial.check_told(done, *_FULL)
    kept = small.with_name("small.kept")
    trial.tally.left += [f"{path.name} on the full disk" for path in kept.rglob(".tmp-*")]
    kept.rename(room)
    for folder, command in ((room, again or words), (right, words)):
        done = trial.run(*command(trial, folder))
        assert done.returncode == 0, done.stderr
    same_pictures(trial, room, right)


def same_pictures(trial: Trial, found: Path, right: Path) -> None:
    """Compare the pictures of two folders, which are the results that are the same in every run."""
    compare_folders(found, right, trial.tally)
    missing = tree(right).keys() - tree(found).keys()
    trial.tally.lost += [f"{name} is missing" for name in missing if not name.endswith(".png") and _LOG not in name]


@pytest.mark.long
@pytest.mark.parametrize("words", [["labels"], ["weights"], ["generate", _COAST], ["compare", _COAST, _FARM]])
def test_nobody_takes_what_is_printed(trial: Trial, words: list[object]) -> None:
    """Standard output is a full disk."""
    trial.tally.faults += 1
    model = [] if len(words) == 1 else ["--model", trial.model, "--out", trial.folder / "out"]
    done = trial.run(*words, *model, prefix=["sh", "-c", 'exec "$@" > /dev/full', "sh"])
    trial.check_told(done)
