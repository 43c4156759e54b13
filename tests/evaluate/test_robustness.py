"""Metrics that generate anew: disturbed layouts, and masks of fewer stages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lostgan_evaluate.metrics import INCEPTION, mask_stages, robustness
from lostgan_evaluate.metrics.frechet import frechet_distance
from lostgan_evaluate.metrics.generating import distance
from lostgan_evaluate.metrics.kernel import kernel_distance
from lostgan_evaluate.metrics.robustness import DISTURBANCES, disturbed
from lostgan_evaluate.subject import Subject, whole
from lostgan_evaluate.subjects import Choice, subject_of_model
from lostgan_serve.encoding import check
from lostgan_serve.layout import Layout, LayoutObject
from lostgan_serve.png import provenance_of
from lostgan_serve.runners import Runner
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.networks.checkpoint import random_checkpoint
from lostgan_train.networks.runner import GeneratorRunner
from lostgan_train.synthetic.dataset import write_dataset
from measuring import perfect, tools_in

SLOTS, LAYOUTS = 12, 8
LAYOUT = Layout(
    (
        LayoutObject("sky", (0.0, 0.0, 1.0, 0.6), "sky-1"),
        LayoutObject("sun", (0.7, 0.1, 0.1, 0.1), "sun-1"),
        LayoutObject("tree", (0.2, 0.4, 0.2, 0.4), "tree-1"),
        LayoutObject("person", (0.9, 0.6, 0.1, 0.4), "person-1"),
    ),
    seed=5,
)
MANY = [LAYOUT] * 200


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "held-out"
    write_dataset(folder, 10, 64, workers=1, held_out=True)
    return folder


def runner_of(variant: str) -> GeneratorRunner:
    return GeneratorRunner(random_checkpoint(variant, Vocabulary.built_in("scenes"), seed=0, ch=2))


@pytest.fixture(scope="module")
def runner() -> GeneratorRunner:
    """A generator that refines its masks."""
    return runner_of("v2-128")


@pytest.fixture
def subject(runner: GeneratorRunner, held_out: Path, tmp_path: Path) -> Subject:
    """Some layouts in two styles."""
    return subject_of_model("tiny", lambda *_: runner, Choice(held_out, samples=2, count=LAYOUTS), tmp_path)


@pytest.mark.parametrize("name", DISTURBANCES)
def test_disturbed_layouts_can_be_generated(name: str, runner: GeneratorRunner) -> None:
    manifest = runner.manifest
    changed = disturbed(MANY, name, manifest.capacity, seed=0)
    assert changed == disturbed(MANY, name, manifest.capacity, seed=0)
    assert all((one.seed, one.name) == (LAYOUT.seed, LAYOUT.name) for one in changed)
    assert all(one.objects != LAYOUT.objects for one in changed)
    for one in changed:
        check(one, manifest)
        for item in one.objects:
            x, y, width, height = item.box
            assert min(x, y) >= -1e-9
            assert max(x + width, y + height) <= 1 + 1e-9
            assert min(width, height) >= 0.02 - 1e-9


@pytest.mark.parametrize(("name", "share"), [("moved_5", 0.05), ("moved_15", 0.15)])
def test_boxes_move_by_up_to_the_share_that_is_stated(name: str, share: float) -> None:
    assert f"{share:.0%}" in DISTURBANCES[name].words
    before = np.array(LAYOUT.objects[2].box)  # far from the edges: nothing is clipped
    boxes = np.array([one.objects[2].box for one in disturbed(MANY, name, SLOTS, seed=1)])
    changes = (boxes - before) / np.tile(before[2:], 2)
    assert np.abs(changes).max() <= share + 1e-9
    assert np.abs(changes).max(0) == pytest.approx(share, rel=0.1)
    assert np.abs(changes.mean(0)).max() < share / 5


def test_numbers_sizes_and_places_change_as_stated() -> None:
    objects = {name: disturbed([LAYOUT], name, SLOTS, seed=0)[0].objects for name in DISTURBANCES}
    crowd = objects["crowded"]
    assert crowd[:4] == LAYOUT.objects
    assert len({item.id for item in crowd}) == len(crowd) == SLOTS
    sizes = {item.label: pytest.approx(item.box[2:]) for item in LAYOUT.objects}
    assert all(item.box[2:] == sizes[item.label] for item in crowd)
    assert "sky" not in {item.label for item in crowd[4:]}
    assert objects["half_size"][0] == objects["double_size"][0] == LAYOUT.objects[0]  # the sky is large
    assert objects["half_size"][2].box == pytest.approx((0.25, 0.5, 0.1, 0.2))
    assert objects["double_size"][2].box == pytest.approx((0.1, 0.2, 0.4, 0.8))
    assert objects["double_size"][3].box == pytest.approx((0.85, 0.4, 0.15, 0.6))  # clipped at the canvas
    assert objects["upside_down"][1].box == pytest.approx((0.7, 0.8, 0.1, 0.1))


def test_each_disturbance_gets_a_score_beside_the_undisturbed_one(subject: Subject, tmp_path: Path) -> None:
    tools = tools_in(tmp_path)
    measured = robustness.METRIC.measure(subject, tools)
    assert [score.name for score in measured.scores] == [f"{name}_fd_efficientnet_lite0" for name in DISTURBANCES]
    (undisturbed,) = {score.facts["undisturbed"] for score in measured.scores}
    for score in measured.scores:
        assert score.facts["change"] == pytest.approx(score.value / undisturbed - 1)
        assert score.facts["images"] == LAYOUTS
    assert len({score.value for score in measured.scores}) == len(DISTURBANCES)
    assert (tmp_path / measured.sheets[0]).is_file()
    found = provenance_of(next(iter((tmp_path / "robustness/crowded").glob("*.png"))))
    assert found is not None
    assert len(found["layout"]["objects"]) == SLOTS


def test_disturbed_images_are_generated_once(subject: Subject, tmp_path: Path) -> None:
    robustness.METRIC.measure(subject, tools_in(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "robustness").rglob("*.png")}
    assert len(before) == LAYOUTS * len(DISTURBANCES)
    robustness.METRIC.measure(subject, tools_in(tmp_path))
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "robustness").rglob("*.png")}


def test_every_stage_of_masks_is_measured(subject: Subject, tmp_path: Path) -> None:
    """The stages are those that the generator has; the last is the model as it is."""
    tools = tools_in(tmp_path)
    assert mask_stages.METRIC.why_not(subject, tools) is None
    measured = mask_stages.METRIC.measure(subject, tools)
    names = {score.name: score for score in measured.scores}
    assert list(names) == [f"m{k}_{kind}_efficientnet_lite0" for k in range(5) for kind in ("fd", "is")]
    own, real = (
        tools.features.features("efficientnet-lite0", regions, subject.protocol.reading)["features"]
        for regions in (whole(subject.first_styles()), whole(subject.real))
    )
    assert names["m4_fd_efficientnet_lite0"].value == pytest.approx(frechet_distance(own, real))
    assert sorted(path.name for path in (tmp_path / "stages").iterdir()) == ["m0", "m1", "m2", "m3"]
    first = subject.first_styles()[0].file
    images = [(tmp_path / "stages" / f"m{k}" / first.name.replace(".seed0", "")).read_bytes() for k in range(4)]
    assert len({*images, first.read_bytes()}) == 5
    assert (tmp_path / measured.sheets[0]).is_file()


def test_stages_need_a_checkpoint_that_refines_masks(held_out: Path, subject: Subject, tmp_path: Path) -> None:
    tools = tools_in(tmp_path)
    elsewhere = perfect(held_out, tmp_path / "elsewhere")
    assert "give a MODEL" in (mask_stages.METRIC.why_not(elsewhere, tools) or "")
    assert "give a MODEL" in (robustness.METRIC.why_not(elsewhere, tools) or "")
    without = runner_of("v1-64")
    for runner, reason in ((Exported(without), "give a checkpoint"), (without, "does not refine its masks")):
        assert reason in (mask_stages.METRIC.why_not(replace(subject, runner=runner), tools) or "")


class Exported:
    """The runner of an exported model."""

    def __init__(self, inner: Runner) -> None:
        self.manifest, self.concurrency = inner.manifest, inner.concurrency
        self.run, self.close = inner.run, inner.close


def test_distances_are_fd_where_images_suffice_and_kid_where_not() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(count, 8, generator=generator) for count in (30, 20))
    assert distance("efficientnet-lite0", a, b, 0).name == "fd_efficientnet_lite0"
    assert distance(INCEPTION, a, b, 0).name == "fid"
    assert distance(INCEPTION, a, b, 0).value == pytest.approx(frechet_distance(a, b))
    few = distance(INCEPTION, a[:8], b, 0)
    assert few.name == "kid"
    assert few.value == pytest.approx(kernel_distance(a[:8], b)[0])
