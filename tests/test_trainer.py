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
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from torchvision.models import vgg19

from conftest import Cli, fails_in_one_line
from lostgan_serve.errors import CheckpointError, TrainingError
from lostgan_serve.manifest import Precision
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.data import Source, open_data
from lostgan_train.losses import PerceptualLoss
from lostgan_train.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from lostgan_train.networks.generator import GeneratorConfig
from lostgan_train.networks.importer import convert_official
from lostgan_train.progress import progress
from lostgan_train.synthetic.dataset import write_dataset
from lostgan_train.trainer import BOARD_FOLDER, LOG_FILE, MOST_SKIPS, Component, TrainConfig, Trainer
from official_state import official_state

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
        *("state-0000004.pt", "state-0000006.pt", "generator.safetensors", "samples"),
        *(LOG_FILE, "curves.png", BOARD_FOLDER),
    }
    assert [row["step"] for row in losses(tmp_path)] == [1, 2, 3, 4, 5, 6]
    board = EventAccumulator(str(tmp_path / BOARD_FOLDER)).Reload()
    assert [event.value for event in board.Scalars("l1")] == pytest.approx([row["l1"] for row in losses(tmp_path)])
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


def test_a_full_disk_ends_the_run_and_the_last_state_stays(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    """No file may grow beyond what the log needs: the kernel refuses the next state, as a full disk does."""
    out = tmp_path / "run"
    options = [*OPTIONS, "--data", scenes, "--out", out, "--checkpoint-every", 2]
    cli("train", *options, "--steps", 2, check=True)
    before = {path.name: path.read_bytes() for path in out.glob("*.[ps]*t*")}
    resumed = ["train", *options, "--resume", "--steps", 4]
    full = cli(*resumed, file_limit_bytes=200_000)
    fails_in_one_line(full, [out / "state-0000004.pt", "too large"])
    assert {path.name: path.read_bytes() for path in out.glob("*.[ps]*t*")} == before
    cli(*resumed, check=True)
    assert [row["step"] for row in losses(out)] == [1, 2, 3, 4]
    (out / LOG_FILE).unlink()
    (out / LOG_FILE).symlink_to("/dev/full")
    fails_in_one_line(cli("train", *options, "--resume", "--steps", 5), [out / LOG_FILE, "No space left"])


def test_a_run_is_resumed_with_another_learning_rate(source: Source, tmp_path: Path) -> None:
    """As the message about losses that are not finite advises."""
    trainer(source, tmp_path, replace(CONFIG, steps=2)).run()
    run = trainer(source, tmp_path, replace(CONFIG, learning_rate=1e-5))
    run.resume()
    for optimizer in (run.generator_optimizer, run.discriminator_optimizer):
        assert [group["lr"] for group in optimizer.param_groups] == [1e-5]


def test_released_weights_go_on_training(source: Source, tmp_path: Path, official_shapes: Any) -> None:
    """A generator in the official format, at its own width, is what the trainer starts from and changes."""
    shapes = official_shapes["generator_v1_64"]
    state = {key: torch.from_numpy(np.asarray(value)) for key, value in official_state(shapes).items()}
    vocabulary = Vocabulary.built_in("coco-stuff")
    released = convert_official(state, GeneratorConfig("v1-64", len(vocabulary)))
    save_checkpoint(tmp_path / "released.safetensors", Checkpoint(released, vocabulary, "trained"))
    few = tuple(example for example in source.examples if len(example.labels) <= vocabulary.slots)
    run = trainer(
        replace(source, vocabulary=vocabulary, examples=few), tmp_path / "run", replace(CONFIG, ch=64, batch=2)
    )
    run.start_from(tmp_path / "released.safetensors")
    for network in (run.generator, run.ema):
        for name, value in network.state_dict().items():
            assert torch.equal(value, released.state_dict()[name]), name
    values = run.step(next(run.batches()))
    assert all(np.isfinite(list(values.values())))
    before = dict(released.named_parameters())
    assert [name for name, value in run.generator.named_parameters() if value.equal(before[name])] == []
    with pytest.raises(CheckpointError, match="paints coco-stuff, the data are scenes"):
        trainer(source, tmp_path / "other").start_from(tmp_path / "released.safetensors")


def test_a_larger_variant_starts_from_the_layers_that_both_have(source: Source, tmp_path: Path) -> None:
    said: list[str] = []
    small = trainer(source, tmp_path / "small", replace(CONFIG, variant="v2-128", steps=1))
    small.run()
    large = Trainer(replace(CONFIG, variant="v2-256"), source, tmp_path / "large", workers=0, echo=said.append)
    large.start_from(tmp_path / "small" / "generator.safetensors")
    assert torch.equal(large.generator.label_embedding.weight, small.ema.label_embedding.weight)
    taken, total = (int(word) for word in said[0].split() if word.isdecimal())
    assert 100 < taken < total


@pytest.mark.parametrize("without", get_args(Component))
def test_components_can_be_switched_off(without: Component, source: Source, tmp_path: Path) -> None:
    """What is left out of table 7 is not there, or is not trained; everything else is, and the checkpoint knows it."""
    run = trainer(source, tmp_path, replace(CONFIG, variant="v2-128", steps=1, without=(without,)))
    before = {name: value.clone() for name, value in run.discriminator.named_parameters()}
    run.run()
    assert (run.generator.mask_net is None) == (without == "layout-to-mask")
    assert (len(run.generator.mask_heads) == 0) == (without == "mask-refinement")
    now = dict(run.discriminator.named_parameters())
    trained = {name.partition(".")[0] for name, value in now.items() if not value.equal(before[name])}
    assert {name.partition(".")[0] for name in now} - trained == {
        "image-head": {"image_score"},
        "object-head": {"adapter", "shared", "object_block", "object_score", "label_embedding"},
    }.get(without, set())
    assert load_checkpoint(tmp_path / "generator.safetensors").generator.config == run.generator.config


def test_spade_trains(source: Source, tmp_path: Path) -> None:
    run = trainer(source, tmp_path, replace(CONFIG, variant="v2-128", steps=1, norm="spade"))
    before = {name: value.clone() for name, value in run.generator.named_parameters()}
    run.run()
    assert [name for name, value in run.generator.named_parameters() if value.equal(before[name])] == []
    assert load_checkpoint(tmp_path / "generator.safetensors").generator.config.norm == "spade"


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


def test_a_missing_vgg19_is_named(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    words = [tmp_path / "vgg.pth", "no such file", "vgg19-dcbb9e9d.pth", "--perceptual none"]
    options = ("--variant", "v1-64", "--data", scenes, "--out", tmp_path / "run", "--ch", 2, "--batch", 4)
    fails_in_one_line(cli("train", *options, "--perceptual", tmp_path / "vgg.pth"), words)


def test_perceptual_loss_reads_vgg19_and_pulls_an_image_to_its_target(source: Source, tmp_path: Path) -> None:
    """On a file of torchvision's names and shapes; its values are drawn, and repeated so that the file stays small."""
    rng = torch.Generator().manual_seed(0)
    path = tmp_path / "vgg19.pth"
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in vgg19(weights=None).state_dict().items()}
    drawn = {
        name: (torch.randn(shape[-2:], generator=rng) / shape[1] if len(shape) > 1 else torch.zeros(1)).expand(shape)
        for name, shape in shapes.items()
    }
    torch.save(drawn, path)
    loss = PerceptualLoss(path)
    image, target = (torch.rand(1, 3, 32, 32, generator=rng) * 2 - 1 for _ in range(2))
    image.requires_grad_()
    assert loss(target, target) == 0
    before = loss(image, target)
    before.backward()
    assert image.grad is not None
    assert loss(image - 1e-3 * image.grad.sign(), target) < before
    run = Trainer(replace(CONFIG, steps=1), source, tmp_path / "run", path, workers=0, echo=lambda _: None)
    run.run()
    assert losses(tmp_path / "run")[0]["perceptual"] > 0
    drawn.pop("features.0.bias")
    torch.save(drawn, path)
    with pytest.raises(CheckpointError, match="not the weights of VGG19"):
        PerceptualLoss(path)


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told() -> tuple[list[str], str]:
        lines: list[str] = []
        with progress("training", 5, 8, 4, lines.append) as report:
            for step in (6, 7, 8):
                report(step, {"l1": 0.5, "skipped": 2})
        return lines, capsys.readouterr().err

    (line,), shown = told()
    assert line.startswith("training: step 8/8  l1 0.500  skipped 2  ")
    assert line.endswith("0:00:00 left")
    assert shown == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    lines, shown = told()
    assert lines == []
    assert "training from step 5" in shown
    assert "3/3  l1 0.500  skipped 2  " in shown
