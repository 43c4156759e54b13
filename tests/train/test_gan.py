"""The GAN's step: both networks learn, however it is spread, interrupted or switched, and nothing bad is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from torch import Tensor

from lostgan_serve.errors import CheckpointError, TrainingError
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.data import Batch, Source
from lostgan_train.loop import BOARD_FOLDER, LOG_FILE
from lostgan_train.losses import diversity_loss
from lostgan_train.networks.checkpoint import Checkpoint, load_checkpoint, load_discriminator, save_checkpoint
from lostgan_train.networks.generator import GeneratorConfig
from lostgan_train.networks.importer import convert_official
from lostgan_train.perceptual import FeatureDistance
from lostgan_train.settings import COMPONENTS, Schedule
from lostgan_train.training import TrainingRun
from official_state import official_state
from training import SETTINGS, Heard, assert_same_state, losses, training


def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(source: Source, tmp_path: Path) -> None:
    whole = training(source, tmp_path / "whole")
    whole.run()
    training(source, tmp_path / "parts", steps=2).run()
    second = training(source, tmp_path / "parts")
    second.begin()
    assert second.loop.done == 2
    second.run()
    assert_same_state(whole.gan, second.gan)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


@pytest.mark.slow
def test_a_run_leaves_what_it_should(source: Source, tmp_path: Path) -> None:
    heard = Heard()
    run = training(source, tmp_path, heard, steps=6, sample_every=4)
    run.run()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        *("state-0000004.pt", "state-0000006.pt", "generator.safetensors", "discriminator.safetensors", "samples"),
        *(LOG_FILE, "curves.png", BOARD_FOLDER, "classifier"),
    }
    assert [row["step"] for row in losses(tmp_path)] == [1, 2, 3, 4, 5, 6]
    board = EventAccumulator(str(tmp_path / BOARD_FOLDER)).Reload()
    assert [event.value for event in board.Scalars("l1")] == pytest.approx([row["l1"] for row in losses(tmp_path)])
    released = load_checkpoint(tmp_path / "generator.safetensors")
    assert (released.weights, released.vocabulary.name) == ("trained", "scenes")
    assert Image.open(tmp_path / "samples" / "step-0000004.png").width > 1000
    assert "samples of step 4 (real ones): dark skies " in "".join(heard.lines)
    assert {"dark_sky", "sky_spread", "recognised", "recognised_rarest"} < losses(tmp_path)[3].keys()


def test_a_step_changes_both_networks_and_the_average_follows(source: Source, tmp_path: Path) -> None:
    run = training(source, tmp_path)
    before = {name: value.clone() for name, value in run.gan.generator.named_parameters()}
    judge = run.gan.discriminator.image_score.weight.detach().clone()
    run.loop.step(next(run.batches(0)))
    unchanged = [name for name, value in run.gan.generator.named_parameters() if torch.equal(value, before[name])]
    assert unchanged == []
    assert not torch.equal(run.gan.discriminator.image_score.weight, judge)
    name, value = next(iter(run.gan.ema.named_parameters()))
    assert not torch.equal(value, before[name])


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_accumulation_gives_nearly_the_same_losses(source: Source, tmp_path: Path, precision: str) -> None:
    """Batch statistics are of the parts, so not quite the same."""
    one, two = (training(source, tmp_path, precision=precision, accumulate=n) for n in (1, 2))
    first, second = (run.loop.step(next(run.batches(0))) for run in (one, two))
    for name, value in first.items():
        assert second[name] == pytest.approx(value, abs=0.3)


class NotANumber(FeatureDistance):
    """A perceptual loss gone wrong."""

    def maps(self, image: Tensor) -> list[Tensor]:
        return [image]

    def distance(self, made: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        return (made[0] - wanted[0]).mean() * float("nan")


def _poison_batch(run: TrainingRun, batch: Batch) -> None:
    batch["image"][0, 0, 0, 0] = float("nan")


def _poison_generators_loss(run: TrainingRun, batch: Batch) -> None:
    run.gan.perceptual = NotANumber()


def _poison_generators_gradient(run: TrainingRun, batch: Batch) -> None:
    run.gan.generator.to_rgb.get_parameter("bias").register_hook(lambda gradient: gradient * float("inf"))


def _poison_discriminators_gradient(run: TrainingRun, batch: Batch) -> None:
    run.gan.discriminator.image_score.get_parameter("bias").register_hook(lambda gradient: gradient * float("nan"))


@pytest.mark.parametrize("accumulate", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("updates", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(
    "poison",
    [_poison_batch, _poison_generators_loss, _poison_generators_gradient, _poison_discriminators_gradient],
)
def test_a_step_that_is_not_finite_changes_nothing(
    poison: Any, first: int, updates: int, accumulate: int, source: Source, tmp_path: Path
) -> None:
    """Neither in the first step, when optimizers have no state yet, nor in the one after it."""
    run, untouched = (training(source, tmp_path, accumulate=accumulate, discriminator_updates=updates) for _ in "ab")
    for other in (run, untouched):
        for batch in _some(other, first):
            other.loop.step(batch)
    bad = next(run.batches(first))
    poison(run, bad)
    run.loop.step(bad)
    assert (run.loop.done, run.loop.skipped) == (first + 1, 1)
    assert_same_state(run.gan, untouched.gan)


def test_each_network_has_its_rate_and_both_fall_at_the_end(source: Source, tmp_path: Path) -> None:
    run = training(source, tmp_path, steps=4, learning_rate=1e-3, discriminator_learning_rate=4e-3, decay_steps=2)
    rates = []
    for batch in run.batches(0):
        run.loop.step(batch)
        optimizers = (run.gan.generator_optimizer, run.gan.discriminator_optimizer)
        rates.append(tuple(optimizer.param_groups[0]["lr"] for optimizer in optimizers))
    assert rates == [(1e-3, 4e-3), (1e-3, 4e-3), (1e-3, 4e-3), (5e-4, 2e-3)]


def test_weights_of_losses_follow_their_schedule(source: Source, tmp_path: Path) -> None:
    plain, scheduled = training(source, tmp_path), training(source, tmp_path, l1_weight=Schedule.parse("4@0,2@1"))
    batches = list(plain.batches(0))
    first, second = plain.loop.step(batches[0])["l1"], scheduled.loop.step(batches[0])["l1"]
    assert second == pytest.approx(4 * first, rel=1e-4)
    scheduled.loop.done = 7
    assert scheduled.settings.l1_weight.at(7) == 2
    assert scheduled.settings.l1_weight.at(0) == 4
    assert Schedule.parse("5@2000,1@4000").at(3000) == 3


def test_the_discriminator_is_updated_on_images_of_their_own(source: Source, tmp_path: Path) -> None:
    run = training(source, tmp_path, discriminator_updates=3)
    batch = next(run.batches(0))
    assert len(batch["image"]) == 12
    assert len({image.numpy().tobytes() for image in batch["image"]}) == 12
    run.loop.step(batch)
    steps = {int(state["step"]) for state in run.gan.discriminator_optimizer.state.values()}
    assert steps == {3}
    assert {int(state["step"]) for state in run.gan.generator_optimizer.state.values()} == {1}


def test_balance_shows_rare_labels_more_often(source: Source, tmp_path: Path) -> None:
    rarest = min(source.summary.labels, key=lambda label: source.summary.labels[label])
    label = source.vocabulary.id_of(rarest)
    shares = []
    for balance in (0.0, 1.0):
        run = training(source, tmp_path, steps=400, balance=balance)
        shown = torch.cat([batch["labels"] for batch in _some(run, 60)])
        shares.append(float((shown == label).any(1).float().mean()))
    assert shares[1] > 1.3 * shares[0] > 0
    again = training(source, tmp_path, steps=400, balance=1.0)
    assert torch.equal(torch.cat([batch["labels"] for batch in _some(again, 60)]), shown)


def _some(run: TrainingRun, count: int) -> list[Batch]:
    return [batch for batch, _ in zip(run.batches(0), range(count), strict=False)]


def test_a_run_is_resumed_with_another_learning_rate(source: Source, tmp_path: Path) -> None:
    """As the message about losses that are not finite advises."""
    training(source, tmp_path, steps=2).run()
    run = training(source, tmp_path, learning_rate=1e-5, steps=3)
    run.begin()
    run.run()
    for optimizer in (run.gan.generator_optimizer, run.gan.discriminator_optimizer):
        assert [group["lr"] for group in optimizer.param_groups] == [1e-5]


@pytest.mark.slow
def test_released_weights_go_on_training(source: Source, tmp_path: Path, official_shapes: Any) -> None:
    """A generator in the official format, at its own width, is what the run starts from and changes."""
    shapes = official_shapes["generator_v1_64"]
    state = {key: torch.from_numpy(np.asarray(value)) for key, value in official_state(shapes).items()}
    vocabulary = Vocabulary.built_in("coco-stuff")
    released = convert_official(state, GeneratorConfig("v1-64", len(vocabulary)))
    path = tmp_path / "released.safetensors"
    save_checkpoint(path, Checkpoint(released, vocabulary, "trained"))
    few = tuple(example for example in source.examples if len(example.labels) <= vocabulary.slots)
    run = training(replace(source, vocabulary=vocabulary, examples=few), tmp_path / "run", ch=64, batch=2, init=path)
    run.begin()
    for network in (run.gan.generator, run.gan.ema):
        for name, value in network.state_dict().items():
            assert torch.equal(value, released.state_dict()[name]), name
    values = run.loop.step(next(run.batches(0)))
    assert all(np.isfinite(list(values.values())))
    before = dict(released.named_parameters())
    assert [name for name, value in run.gan.generator.named_parameters() if value.equal(before[name])] == []
    with pytest.raises(CheckpointError, match="made for coco-stuff, the data are scenes"):
        training(source, tmp_path / "other", init=path).begin()


@pytest.mark.slow
def test_a_larger_variant_is_grown_and_its_judge_starts_from_the_layers_that_both_have(
    source: Source, tmp_path: Path
) -> None:
    heard = Heard()
    small = training(source, tmp_path / "small", variant="v2-128", steps=1)
    small.run()
    files: dict[str, Any] = {
        "init": tmp_path / "small" / "generator.safetensors",
        "init_discriminator": tmp_path / "small" / "discriminator.safetensors",
    }
    settings = replace(SETTINGS, data=Path(source.summary.folder), variant="v2-256", **files)
    large = TrainingRun(settings, source, tmp_path / "large", heard)
    large.begin()
    assert torch.equal(large.gan.generator.label_embedding.weight, small.gan.ema.label_embedding.weight)
    judge = load_discriminator(files["init_discriminator"]).discriminator
    own, theirs = large.gan.discriminator.state_dict(), judge.state_dict()
    name = "trunk.0.conv1.parametrizations.weight.original"
    assert torch.equal(own[name], theirs[name])
    assert heard.lines[0] == f"{files['init']}: grown from 128 px to 256"
    counts = [[int(word) for word in line.split() if word.isdecimal()] for line in heard.lines[1:]]
    (taken, total), (judged, of_judge) = counts
    assert taken == total
    assert of_judge / 3 < judged < of_judge


@pytest.mark.slow
def test_another_variant_starts_from_the_layers_that_both_have(source: Source, tmp_path: Path) -> None:
    training(source, tmp_path / "small", variant="v1-128", steps=1).run()
    heard = Heard()
    training(
        source, tmp_path / "large", heard, variant="v2-128", init=tmp_path / "small" / "generator.safetensors"
    ).begin()
    (line,) = heard.lines
    taken, total = (int(word) for word in line.split() if word.isdecimal())
    assert total / 3 < taken < total


@pytest.mark.slow
@pytest.mark.parametrize("without", COMPONENTS)
def test_components_can_be_switched_off(without: str, source: Source, tmp_path: Path) -> None:
    """What is left out of table 7 is not there, or is not trained; everything else is, and the checkpoint knows it."""
    run = training(source, tmp_path, variant="v2-128", steps=1, without=(without,))
    before = {name: value.clone() for name, value in run.gan.discriminator.named_parameters()}
    run.run()
    generator = run.gan.generator
    assert (generator.mask_net is None) == (without == "layout-to-mask")
    assert (len(generator.mask_heads) == 0) == (without == "mask-refinement")
    now = dict(run.gan.discriminator.named_parameters())
    trained = {name.partition(".")[0] for name, value in now.items() if not value.equal(before[name])}
    assert {name.partition(".")[0] for name in now} - trained == {
        "image-head": {"image_score"},
        "object-head": {"adapter", "shared", "object_block", "object_score", "label_embedding"},
    }.get(without, set())
    assert load_checkpoint(tmp_path / "generator.safetensors").generator.config == generator.config


def test_styles_are_pushed_apart(source: Source, tmp_path: Path) -> None:
    """The same steps with and without it; the loss itself is lower the more two styles differ."""
    near, far = (torch.zeros(2, 3, 8, 8) + value for value in (0.01, 0.5))
    assert float(diversity_loss(near, torch.zeros_like(near))) == pytest.approx(1 / 0.02)
    assert float(diversity_loss(far, torch.zeros_like(far))) == pytest.approx(1 / 0.51)
    spreads = []
    for weight in (0.0, 100.0):
        changes: dict[str, Any] = {"steps": 20, "learning_rate": 1e-2, "diversity_weight": Schedule(((0, weight),))}
        run = training(source, tmp_path / str(weight), **changes)
        run.run()
        assert ("diversity" in losses(tmp_path / str(weight))[-1]) == (weight > 0)
        batch = next(run.batches(0))
        rng = torch.Generator().manual_seed(0)
        slots = batch["labels"].shape[1]
        with torch.no_grad():
            first, second = (
                run.gan.generator.eval()(
                    batch["labels"],
                    batch["boxes"],
                    torch.randn(4, slots, 128, generator=rng),
                    torch.randn(4, 128, generator=rng),
                ).image
                for _ in range(2)
            )
        spreads.append(float((first - second).abs().mean()))
    assert spreads[1] > 1.1 * spreads[0]


def test_styles_of_a_single_image_are_refused(source: Source, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="--batch 4 in 4 parts: --diversity-weight takes"):
        training(source, tmp_path, accumulate=4, diversity_weight=Schedule(((0, 1.0),)))


@pytest.mark.slow
def test_spade_trains(source: Source, tmp_path: Path) -> None:
    run = training(source, tmp_path, variant="v2-128", steps=1, norm="spade")
    before = {name: value.clone() for name, value in run.gan.generator.named_parameters()}
    run.run()
    assert [name for name, value in run.gan.generator.named_parameters() if value.equal(before[name])] == []
    assert load_checkpoint(tmp_path / "generator.safetensors").generator.config.norm == "spade"


def test_a_batch_that_does_not_divide_is_refused(source: Source, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="--batch 4 does not divide"):
        training(source, tmp_path, accumulate=3)
    with pytest.raises(TrainingError, match="a step takes 64 images, more than the 21 of the data; lower it"):
        training(source, tmp_path, batch=32, discriminator_updates=2)


@pytest.mark.parametrize(("batch", "accumulate"), [(1, 1), (4, 4)])
def test_a_part_of_one_image_is_refused_where_it_cannot_be_normalized(
    batch: int, accumulate: int, source: Source, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="which must be 2 or more; raise --batch or lower --accumulate"):
        training(source, tmp_path, variant="v2-128", batch=batch, accumulate=accumulate)
    training(source, tmp_path, batch=batch, accumulate=accumulate, steps=1).run()  # v1-64 has no pyramid


def test_a_state_with_other_labels_is_refused(source: Source, tmp_path: Path) -> None:
    training(source, tmp_path, steps=2).run()
    with pytest.raises(CheckpointError, match="data of other labels"):
        training(replace(source, vocabulary=Vocabulary("own", source.vocabulary.labels[:-1], 12)), tmp_path).begin()


@pytest.mark.parametrize("change", ["part missing", "other width"])
def test_a_state_of_other_networks_is_refused(change: str, source: Source, tmp_path: Path) -> None:
    """Not taken in part: what is missing would stay random."""
    training(source, tmp_path, steps=2).run()
    path = tmp_path / "state-0000002.pt"
    state = torch.load(path, weights_only=True)
    del state["generator"]
    torch.save(state, path)
    if change == "other width":
        training(source, tmp_path / "wide", steps=2, ch=4).run()
        path.write_bytes((tmp_path / "wide" / path.name).read_bytes())
    with pytest.raises(CheckpointError, match=r"state-0000002\.pt: is of other networks than this run's"):
        training(source, tmp_path).begin()


def test_a_damaged_state_gives_way_to_the_one_before(source: Source, tmp_path: Path) -> None:
    training(source, tmp_path).run()
    newest = tmp_path / "state-0000004.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    run = training(source, tmp_path)
    run.begin()
    assert run.loop.done == 2
    (tmp_path / "state-0000002.pt").write_bytes(b"")
    with pytest.raises(
        CheckpointError, match=r"none of its 2 states .* remove them to begin anew, or choose another --out"
    ):
        training(source, tmp_path).begin()
