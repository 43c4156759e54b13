"""Evaluation: real crops are recognised, what shows nothing is not, and one command says it all."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from conftest import Cli
from lostgan_serve.errors import LostganError, TrainingError
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.classifier import (
    SMALL,
    Confusion,
    Lesson,
    boxes_of,
    crop,
    draw_crops,
    drawn,
    recognise,
    steps_of,
    train_classifier,
)
from lostgan_train.commands import evaluate
from lostgan_train.distributed import Processes
from lostgan_train.evaluate import repeats, score_layouts
from lostgan_train.networks.checkpoint import load_checkpoint, random_checkpoint, save_checkpoint
from lostgan_train.synthetic.compose import draw_scene
from lostgan_train.synthetic.dataset import FIRST_HELD_OUT_SEED
from training import Heard

SIDE = 48
EPOCHS = 6
SCENES = Vocabulary.built_in("scenes")


def learnt(crops: Tensor, labels: Tensor, folder: Path, epochs: int) -> torch.nn.Module:
    lesson = Lesson("test", len(labels), lambda: (crops, labels))
    network = train_classifier(lesson, SCENES, folder, Processes(), steps=steps_of(epochs, len(labels), SMALL))
    assert network is not None
    return network


@pytest.fixture(scope="module")
def crops() -> tuple[Tensor, Tensor]:
    return draw_crops(range(120), SIDE)


@pytest.fixture(scope="module")
def classifier(crops: tuple[Tensor, Tensor], tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    return learnt(*crops, tmp_path_factory.mktemp("classifier"), EPOCHS)


def test_a_crop_is_what_the_box_bounds() -> None:
    """Of a picture painted in one colour for each half, each half's crop has its colour alone."""
    picture = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    picture[:, :, 32:] = 200
    boxes = torch.tensor([[0.0, 0.25, 0.5, 0.5], [0.5, 0.0, 0.5, 1.0]])
    left, right = crop(picture, [boxes])[:, :, :, 1:-1]  # the outermost column may be interpolated with its neighbour
    assert (int(left.max()), int(right.min())) == (0, 200)
    scene = draw_scene(3, SIDE)
    x, y, width, height = (boxes_of(scene)[0] * SIDE).round().int().tolist()
    assert scene.masks[0, y : y + height, x : x + width].sum() == scene.masks[0].sum()


def test_real_crops_are_recognised_and_empty_ones_are_not(classifier: torch.nn.Module) -> None:
    held_out, labels = draw_crops(range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + 30), SIDE)
    commonest = float(labels.bincount().max() / len(labels))
    assert Confusion.of(labels, recognise(classifier, held_out), SCENES).accuracy > 0.8
    for empty in (torch.full_like(held_out, 128), held_out.flip(0)):
        assert Confusion.of(labels, recognise(classifier, empty), SCENES).accuracy < 2 * commonest


def test_the_same_crops_teach_the_same(crops: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    few, labels = crops[0][:200], crops[1][:200]
    before = torch.random.get_rng_state()
    first, second = (learnt(few, labels, tmp_path / name, 1) for name in "ab")
    assert torch.equal(torch.random.get_rng_state(), before)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_lost_process_that_draws_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lostgan_train.classifier.draw_scene", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(TrainingError, match=r"a process that draws scenes was lost .*too little memory") as caught:
        list(drawn(range(3), SIDE))
    assert "\n" not in str(caught.value)


def test_confusion_counts_by_label() -> None:
    ids = SCENES.id_of
    sky, sun, moon = ids("sky"), ids("sun"), ids("moon")
    confusion = Confusion.of(torch.tensor([sky, sky, sun, sun]), torch.tensor([sky, sky, sun, moon]), SCENES)
    assert confusion.accuracy == 0.75
    assert list(confusion.recalls.items()) == [("sun", 0.5), ("sky", 1.0)]


def test_what_an_untrained_generator_paints_is_not_recognised(
    classifier: torch.nn.Module, tiny_checkpoint: Path
) -> None:
    heard = Heard()
    scores = score_layouts(load_checkpoint(tiny_checkpoint), classifier, 10, heard)
    assert scores.scenes == 10
    assert heard.counts == {"generating": (10, 10, "")}
    assert int(scores.real.counts.sum()) == scores.objects
    assert int(scores.generated.counts.sum()) == 2 * scores.objects  # two styles
    assert scores.generated.accuracy < 0.3 < 0.6 < scores.real.accuracy


def test_whether_a_seed_gives_one_picture_is_seen(tiny_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    assert repeats(checkpoint)
    checkpoint.generator.to_rgb.register_forward_hook(lambda *call: call[-1] + torch.randn(()))
    assert not repeats(checkpoint)


@pytest.mark.slow
def test_the_command_reports_everything(cli: Cli, tiny_checkpoint: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "new" / "sheet.png"
    options = ("--count", 3, "--training-scenes", 8, "--sheet", sheet)
    lines = cli("evaluate", tiny_checkpoint, *options, check=True).stdout.splitlines()
    assert lines[0].split()[:2] == ["scenes", "3,"]
    iou, of_boxes = (float(number.strip("(:)")) for number in (lines[1].split()[4], lines[1].split()[-1]))
    assert 0 < iou < of_boxes < 1  # untrained, it cannot beat the boxes
    said = {line[:25].strip(): line[25:] for line in lines}
    assert all(word.endswith(("%", "%,")) for word in said["crops recognised"].split()[1::2])
    assert said["the same seed again"] == "the same picture, bit for bit"
    assert said.keys() > {"least often, generated", "two styles of a layout", "picture against scene"}
    picture = np.asarray(Image.open(sheet))
    assert picture.shape == (1366, 2138, 3)  # eight scenes; layout, drawn, painted, objects, another style
    assert picture[-266:-10].std() > 0


def test_what_cannot_be_evaluated_is_refused_at_once(tiny_checkpoint: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_checkpoint(foreign, random_checkpoint("v1-64", Vocabulary.built_in("coco-stuff"), seed=0, ch=2))
    (tmp_path / "file").write_text("")
    for arguments, words in (
        ([foreign], rf"{foreign}: .*coco-stuff.*only generators of scenes"),
        ([tiny_checkpoint, "--sheet", tmp_path / "file" / "s.png"], "s.png: cannot write"),
    ):
        with pytest.raises(LostganError, match=words) as caught:
            CliRunner().invoke(evaluate, [str(argument) for argument in arguments], catch_exceptions=False)
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 2
