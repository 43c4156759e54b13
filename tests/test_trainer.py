"""Training: the step is the same however it is spread, interrupted or resumed, and nothing bad is kept."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from conftest import Cli, fails_in_one_line
from lostgan_serve.errors import CheckpointError, TrainingError
from lostgan_train.checkpoint import load_checkpoint
from lostgan_train.data import Source, open_data
from lostgan_train.scenes.dataset import write_dataset
from lostgan_train.trainer import LOG_FILE, MOST_SKIPS, Precision, TrainConfig, Trainer

CONFIG = TrainConfig(
    "v1-64", steps=4, ch=2, discriminator_ch=2, batch=4, learning_rate=1e-3, checkpoint_every=2, sample_every=4
)
OPTIONS = (
    *("--variant", "v1-64", "--ch", 2, "--batch", 4, "--learning-rate", 1e-3, "--perceptual", "none"),
    *("--workers", 0),
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_dataset(folder, 24, 64, workers=1)
    return folder


@pytest.fixture(scope="module")
def source(scenes: Path) -> Source:
    return open_data(scenes)


def trainer(source: Source, out: Path, config: TrainConfig = CONFIG) -> Trainer:
    return Trainer(config, source, out, workers=0, echo=lambda _: None)


def losses(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / LOG_FILE).read_text().splitlines()]


def assert_same_state(one: Trainer, other: Trainer) -> None:
    for network in ("generator", "discriminator", "ema"):
        theirs = getattr(other, network).state_dict()
        for key, value in getattr(one, network).state_dict().items():
            assert torch.equal(value, theirs[key]), (network, key)


def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(source: Source, tmp_path: Path) -> None:
    whole = trainer(source, tmp_path / "whole")
    whole.run()
    first = trainer(source, tmp_path / "parts", replace(CONFIG, steps=2))
    first.run()
    second = trainer(source, tmp_path / "parts")
    second.resume()
    assert second.done == 2
    second.run()
    assert_same_state(whole, second)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


def test_a_run_leaves_what_it_should(source: Source, tmp_path: Path) -> None:
    run = trainer(source, tmp_path, replace(CONFIG, steps=6))
    run.run()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        *("state-0000004.pt", "state-0000006.pt", "generator.safetensors", "samples", LOG_FILE, "curves.png")
    }
    assert [row["step"] for row in losses(tmp_path)] == [1, 2, 3, 4, 5, 6]
    released = load_checkpoint(tmp_path / "generator.safetensors")
    assert (released.weights, released.vocabulary.name) == ("trained", "scenes")
    assert Image.open(tmp_path / "samples" / "step-0000004.png").width > 1000


def test_a_step_changes_both_networks_and_the_average_follows(source: Source, tmp_path: Path) -> None:
    run = trainer(source, tmp_path)
    before = {name: value.clone() for name, value in run.generator.named_parameters()}
    judge = run.discriminator.image_score.weight.detach().clone()
    run.step(next(run.batches()))
    unchanged = [name for name, value in run.generator.named_parameters() if torch.equal(value, before[name])]
    assert unchanged == []
    assert not torch.equal(run.discriminator.image_score.weight, judge)
    name, value = next(iter(run.ema.named_parameters()))
    assert not torch.equal(value, before[name])


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_accumulation_gives_nearly_the_same_losses(source: Source, tmp_path: Path, precision: Precision) -> None:
    """Batch statistics are of the parts, so not quite the same."""
    config = replace(CONFIG, precision=precision)
    one, two = (trainer(source, tmp_path, replace(config, accumulate=n)) for n in (1, 2))
    first, second = (run.step(next(run.batches())) for run in (one, two))
    for name, value in first.items():
        assert second[name] == pytest.approx(value, abs=0.3)


def test_a_step_that_is_not_finite_changes_nothing(source: Source, tmp_path: Path) -> None:
    run, untouched = trainer(source, tmp_path), trainer(source, tmp_path)
    batch = next(run.batches())
    batch["image"][0, 0, 0, 0] = float("nan")
    run.step(batch)
    assert (run.done, run.skipped) == (1, 1)
    assert_same_state(run, untouched)
    with pytest.raises(TrainingError, match="20 steps in a row"):
        for _ in range(MOST_SKIPS):
            run.step(batch)
    assert_same_state(run, untouched)


def test_a_damaged_state_gives_way_to_the_one_before(source: Source, tmp_path: Path) -> None:
    trainer(source, tmp_path).run()
    newest = tmp_path / "state-0000004.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    run = trainer(source, tmp_path)
    run.resume()
    assert run.done == 2
    (tmp_path / "state-0000002.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="no state to resume from"):
        trainer(source, tmp_path).resume()


def test_a_state_of_another_run_is_refused(source: Source, tmp_path: Path) -> None:
    trainer(source, tmp_path, replace(CONFIG, steps=2)).run()
    with pytest.raises(CheckpointError, match="made with batch 4, not 8"):
        trainer(source, tmp_path, replace(CONFIG, batch=8)).resume()


def test_a_batch_that_does_not_divide_is_refused(source: Source, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="--batch 4 does not divide"):
        trainer(source, tmp_path, replace(CONFIG, accumulate=3))
    with pytest.raises(TrainingError, match="more than the"):
        next(trainer(source, tmp_path, replace(CONFIG, batch=64)).batches())


def test_two_processes_are_as_one(scenes: Path, tmp_path: Path) -> None:
    """Half the batch each, over gloo: the first ten losses within 1e-4, batch norm synchronized."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    options = [str(word) for word in (*OPTIONS, "--learning-rate", 1e-4, "--data", scenes, "--steps", 10)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lostgan_train", *options, "--out"]
    subprocess.run([*command, tmp_path / "one"], check=True, capture_output=True, timeout=300, env=environment)
    ranks = [
        subprocess.Popen(
            [*command, tmp_path / "two"],
            stdout=subprocess.DEVNULL,
            env=environment
            | {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        )
        for rank in range(2)
    ]
    assert [rank.wait(300) for rank in ranks] == [0, 0]
    for one, two in zip(losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-4)


def test_sigterm_saves_and_the_command_resumes(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "run"
    options = [*OPTIONS, "--data", scenes, "--out", out, "--workers", 1]
    command = [Path(sys.executable).parent / "lostgan-serve", "train", *options, "--steps", 100_000]
    words = [str(word) for word in command]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (out / LOG_FILE).exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)  # as a terminal or a cluster does: to the loading process, too
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "go on with --resume" in output
    done = len(losses(out))
    assert (out / f"state-{done:07}.pt").is_file()
    fails_in_one_line(cli("train", *options), [out, "holds a run already", "--resume"], code=1)
    cli("train", *options, "--resume", "--steps", done + 2, check=True)
    assert len(losses(out)) == done + 2


def test_evaluation_scores_a_generator_of_scenes(cli: Cli, tiny_checkpoint: Path) -> None:
    lines = cli("evaluate", tiny_checkpoint, "--count", 3, check=True).stdout.splitlines()
    assert lines[0].split()[:2] == ["scenes", "3,"]
    iou, of_boxes = (float(number.strip("(:)")) for number in (lines[1].split()[4], lines[1].split()[-1]))
    assert 0 < iou < of_boxes < 1  # untrained, it cannot beat the boxes


def test_a_missing_vgg19_is_named(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    words = [tmp_path / "vgg.pth", "no such file", "vgg19-dcbb9e9d.pth", "--perceptual none"]
    options = ("--variant", "v1-64", "--data", scenes, "--out", tmp_path / "run", "--ch", 2, "--batch", 4)
    fails_in_one_line(cli("train", *options, "--perceptual", tmp_path / "vgg.pth"), words)
