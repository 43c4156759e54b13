"""Reconfiguration: edits of one object, and what they change."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from lostgan_evaluate.commands.reconfigure import reconfigure
from lostgan_evaluate.metrics.reconfiguration import KINDS, LONGEST_SIDE, METRIC, SHIFT, edits_of
from lostgan_evaluate.protocols import default_protocol
from lostgan_evaluate.sampling import layouts_of
from lostgan_evaluate.scores import Score
from lostgan_evaluate.subjects import Choice, subject_of_model
from lostgan_serve.changes import in_boxes
from lostgan_serve.contract import Array, Tensors
from lostgan_serve.encoding import encode
from lostgan_serve.errors import EvaluationError
from lostgan_serve.layout import Layout, LayoutObject
from lostgan_serve.manifest import Manifest
from lostgan_serve.styles import style_codes
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.data import open_data
from lostgan_train.networks.checkpoint import random_checkpoint, save_checkpoint
from lostgan_train.synthetic.dataset import write_dataset
from measuring import tools_in

SCENES = Vocabulary.built_in("scenes")
LAYOUT = Layout(
    (
        LayoutObject("sky", (0.0, 0.0, 1.0, 0.6), "sky-1"),
        LayoutObject("sun", (0.7, 0.1, 0.1, 0.1), "sun-1"),
        LayoutObject("tree", (0.2, 0.4, 0.2, 0.4), "tree-1"),
    ),
    seed=5,
)


class BoxRunner:
    """Fills each object's box with a colour made of its label and code, the last object on top. leaks: levels by which
    the sum of all labels, modulo 5, makes every pixel bluer."""

    concurrency = 1

    def __init__(self, leaks: int = 0, vocabulary: Vocabulary = SCENES) -> None:
        self.leaks = leaks
        self.manifest = Manifest(
            variant="v1-64", resolution=64, slots=12, max_batch=4, vocabulary=vocabulary, weights="untrained"
        )

    def run(self, tensors: Tensors, outputs: Sequence[str]) -> dict[str, Array]:
        count = len(tensors["labels"])
        images = np.zeros((count, 64, 64, 3), np.uint8)
        owners = np.full((count, 64, 64), 255, np.uint8)
        for row in range(count):
            used = [slot for slot in range(12) if tensors["boxes"][row, slot, 2] > 0 and tensors["labels"][row, slot]]
            for slot in used:
                x, y, width, height = np.rint(64 * tensors["boxes"][row, slot]).astype(int)
                code = int(100 * abs(tensors["z_obj"][row, slot, 0])) % 100
                images[row, y : y + height, x : x + width] = (9 * int(tensors["labels"][row, slot]), 100 + code, 50)
                owners[row, y : y + height, x : x + width] = slot
            images[row, :, :, 2] += np.uint8(self.leaks * (int(tensors["labels"][row, used].sum()) % 5))
        found = {"image": images, "object_map": owners, "masks": np.zeros((count, 12, 64, 64), np.uint8)}
        return {name: found[name] for name in outputs}

    def close(self) -> None:
        pass


def test_edits_leave_all_other_codes_and_boxes_alone() -> None:
    edits = edits_of(LAYOUT, list(SCENES), np.random.default_rng(3))
    assert tuple(edits) == KINDS
    for kind, edit in edits.items():
        for other in edit.untouched:
            assert other in edit.before.objects
        before, after = (
            dict(zip((item.id for item in layout.objects), codes.objects, strict=True))
            for layout, codes in zip((edit.before, edit.after), style_codes([edit.before, edit.after]), strict=True)
        )
        changed = {name for name in before.keys() & after.keys() if (before[name] != after[name]).any()}
        assert changed == ({edit.name} if kind == "restyled" else set())
    (moved,) = (item for item in edits["moved"].after.objects if item.id == edits["moved"].name)
    (start,) = (item for item in LAYOUT.objects if item.id == edits["moved"].name)
    assert abs(moved.box[0] - start.box[0]) == pytest.approx(SHIFT)
    assert 0 <= moved.box[0] <= 1 - moved.box[2]
    assert edits["added"].after == LAYOUT
    assert len(edits["added"].before.objects) == 2


def test_edits_are_a_function_of_the_seed() -> None:
    names = {edits_of(LAYOUT, list(SCENES), np.random.default_rng(seed))["moved"].name for seed in range(20)}
    assert names == {"sun-1", "tree-1"}  # never the sky, which is too large
    first, second = (edits_of(LAYOUT, list(SCENES), np.random.default_rng(1)) for _ in range(2))
    assert first == second


def test_a_layout_of_grounds_alone_has_no_edit() -> None:
    grounds = replace(LAYOUT, objects=(LAYOUT.objects[0], replace(LAYOUT.objects[0], id="sky-2")))
    assert max(grounds.objects[0].box[2:]) > LONGEST_SIDE
    assert edits_of(grounds, list(SCENES), np.random.default_rng(0)) == {}
    assert edits_of(replace(LAYOUT, objects=LAYOUT.objects[1:2]), list(SCENES), np.random.default_rng(0)) == {}


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "held-out"
    write_dataset(folder, 10, 64, workers=1, held_out=True)
    return folder


@pytest.fixture
def quick_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lostgan_train.classifier.EPOCHS", 1)


def measured(runner: BoxRunner, data: Path, training: Path, out: Path, count: int | None = None) -> dict[str, Score]:
    """The scores of a model, by the kinds of edits."""
    choice = Choice(data, training, samples=1, count=count)
    subject = subject_of_model("model", lambda *_: runner, choice, out)
    assert METRIC.why_not(subject, tools_in(out)) is None
    return dict(zip(KINDS, METRIC.measure(subject, tools_in(out)).scores, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("leaks", [0, 3])
def test_the_reach_is_the_change_outside(
    leaks: int, held_out: Path, scenes: Path, tmp_path: Path, quick_classifier: None
) -> None:
    for kind, score in measured(BoxRunner(leaks), held_out, scenes, tmp_path).items():
        facts = score.facts
        assert score.name == f"{kind}_reach"
        assert facts["layouts"] + facts["left_out"] == len(open_data(held_out, split="val").examples)
        assert facts["levels_inside"] > 1
        if leaks == 0 or kind in ("moved", "restyled"):  # only a label leaks
            assert facts["levels_outside"] == 0
            assert score.value == 0
        else:
            assert facts["levels_outside"] > 0
            assert score.value == facts["levels_outside"] / facts["levels_inside"]
    assert (tmp_path / "reconfiguration.png").is_file()


class LampRunner(BoxRunner):
    """Each object lights its box by 15 levels, and the whole picture by 2."""

    def run(self, tensors: Tensors, outputs: Sequence[str]) -> dict[str, Array]:
        found = super().run(tensors, outputs)
        for image, boxes in zip(found["image"], tensors["boxes"], strict=True):
            image[:] = 0
            for box in boxes[boxes[:, 0] >= 0].tolist():
                image += 2
                image[in_boxes([tuple(box)], 64)] += 15
        return found


class PhotographRunner(BoxRunner):
    """Shows the real images of layouts, whatever their styles, and noise for all other layouts."""

    def __init__(self, data: Path) -> None:
        super().__init__()
        source = open_data(data, split="val")
        layouts = layouts_of(source.examples, SCENES, default_protocol("scenes", 64))
        known = encode(layouts, self.manifest)
        images = [np.asarray(Image.open(example.image)) for example in source.examples]
        self._images = dict(zip(map(self._key, known["labels"], known["boxes"]), images, strict=True))

    def run(self, tensors: Tensors, outputs: Sequence[str]) -> dict[str, Array]:
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        keys = map(self._key, tensors["labels"], tensors["boxes"])
        return super().run(tensors, outputs) | {"image": np.stack([self._images.get(key, noise) for key in keys])}

    def _key(self, labels: Array, boxes: Array) -> bytes:
        return labels.tobytes() + boxes.tobytes()


@pytest.mark.slow
def test_levels_are_means_over_the_pixels_of_the_box_and_of_the_rest(
    held_out: Path, scenes: Path, tmp_path: Path, quick_classifier: None
) -> None:
    scores = measured(LampRunner(), held_out, scenes, tmp_path)
    levels = {kind: (score.facts["levels_inside"], score.facts["levels_outside"]) for kind, score in scores.items()}
    assert levels["added"] == pytest.approx((17, 2))
    assert scores["added"].value == pytest.approx(2 / 17)
    assert 0 < levels["moved"][0] <= 15  # where the box was and where it is, but for the overlap
    assert levels["moved"][1] == 0
    for kind in ("restyled", "relabelled"):
        assert levels[kind] == (0, 0)
        assert scores[kind].value == scores[kind].facts["untouched_recognised_otherwise"] == 0


@pytest.mark.slow
def test_labels_of_untouched_objects_change_where_the_picture_does(
    held_out: Path, scenes: Path, tmp_path: Path
) -> None:
    scores = measured(PhotographRunner(held_out), held_out, scenes, tmp_path)
    changed = {kind: score.facts["untouched_recognised_otherwise"] for kind, score in scores.items()}
    assert changed["restyled"] == 0
    assert min(changed["added"], changed["moved"], changed["relabelled"]) > 0.5  # one of the two pictures is noise


@pytest.mark.slow
def test_objects_are_relabelled_to_labels_that_the_model_knows(
    held_out: Path, scenes: Path, tmp_path: Path, quick_classifier: None
) -> None:
    example = open_data(held_out, split="val").examples[0]
    used = sorted({SCENES.labels[label] for label in example.labels})
    runner = BoxRunner(vocabulary=Vocabulary("few", ("__image__", *used), slots=12))
    assert measured(runner, held_out, scenes, tmp_path, count=1)["relabelled"].facts["layouts"] == 1
    subject = subject_of_model("model", lambda *_: runner, Choice(held_out, scenes, samples=1, count=1), tmp_path)
    one = BoxRunner(vocabulary=Vocabulary("one", ("__image__", used[0]), slots=12))
    assert "one label" in str(METRIC.why_not(replace(subject, runner=one), tools_in(tmp_path)))


@pytest.mark.slow
def test_the_command_prints_the_table_and_goes_on(
    held_out: Path, scenes: Path, tmp_path: Path, quick_classifier: None
) -> None:
    checkpoint = tmp_path / "tiny.safetensors"
    save_checkpoint(checkpoint, random_checkpoint("v1-64", SCENES, seed=0, ch=2))
    arguments = [str(checkpoint), "--data", str(held_out), "--training-data", str(scenes), "--count", "4"]
    printed = []
    for _ in range(2):
        done = CliRunner().invoke(reconfigure, [*arguments, "--out", str(tmp_path / "out")], catch_exceptions=False)
        printed.append([line for line in done.output.splitlines() if line.startswith("| ")])
    assert [line.split("|")[1].strip() for line in printed[0]] == ["one object is", *KINDS]
    assert printed[0] == printed[1]
    scores = json.loads((tmp_path / "out" / "evaluation.json").read_bytes())["scores"]
    assert set(scores) == {f"{kind}_reach" for kind in KINDS}


def test_without_a_model_or_training_images_it_says_so(held_out: Path, small_checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(held_out), "--out", str(tmp_path / "out")]
    with pytest.raises(EvaluationError, match="give a MODEL"):
        CliRunner().invoke(reconfigure, arguments, catch_exceptions=False)
    with pytest.raises(EvaluationError, match="give --training-data"):
        CliRunner().invoke(reconfigure, [str(small_checkpoint), *arguments, "--count", "2"], catch_exceptions=False)
