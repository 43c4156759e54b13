"""Whether generated images help: what rows learn from, runs with tiny networks, and the files that come of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from conftest import Cli
from data_files import PETS, box_of, image_of, write_coco
from lostgan_evaluate.commands.experiment import experiment
from lostgan_evaluate.experiments import usefulness_learning
from lostgan_evaluate.experiments.usefulness import run
from lostgan_evaluate.experiments.usefulness_data import Material, open_material, synthetic
from lostgan_evaluate.experiments.usefulness_rows import Budget, Study
from lostgan_evaluate.experiments.usefulness_table import markdown, plot, tabulate
from lostgan_serve.errors import DataError, EvaluationError, LostganError
from lostgan_serve.progress import Advance
from lostgan_serve.runners import Runner
from lostgan_serve.synthesize.recipe import Recipe
from lostgan_train.data import open_data
from lostgan_train.semi_supervised.pseudo_labels import detect
from lostgan_train.synthetic.dataset import write_dataset
from training import Heard


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held-out") / "scenes"
    write_dataset(folder, 8, 64, workers=1, held_out=True)
    return folder


@pytest.fixture
def material(scenes: Path, held_out: Path) -> Material:
    return open_material(scenes, held_out, None)


class Counted(Heard):
    """Remembers every count that was begun, with its total. on_note: called with lines that begin so."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[tuple[str, float]] = []
        self.on_note: dict[str, Callable[[], object]] = {}

    def note(self, line: str) -> None:
        super().note(line)
        for start, act in self.on_note.items():
            if line.startswith(start):
                act()

    @contextmanager
    def count(self, name: str, total: float, done: float = 0) -> Iterator[Advance]:
        self.begun.append((name, total))
        with super().count(name, total, done) as advance:
            yield advance

    def totals(self, name: str) -> list[float]:
        return [total for begun, total in self.begun if begun == name]


# what rows learn from


def test_a_smaller_share_is_part_of_a_larger_one(material: Material) -> None:
    shares = [set(material.share(percent, seed=1).examples) for percent in (10, 50, 100)]
    whole = len(material.real.examples)
    assert [len(share) for share in shares] == [round(whole / 10), round(whole / 2), whole]
    assert shares[0] < shares[1] < shares[2]
    assert shares[1] != set(material.share(50, seed=2).examples)


def test_rare_labels_are_the_quarter_with_the_fewest_objects(material: Material) -> None:
    labels = [label for example in material.real.examples for label in example.labels]
    assert len(material.rare) == len(set(labels)) // 4
    most = max(labels.count(label) for label in material.rare)
    assert all(labels.count(label) >= most for label in set(labels) - set(material.rare))


def test_held_out_images_may_not_be_learnt_from(tmp_path: Path, scenes: Path, held_out: Path) -> None:
    with pytest.raises(DataError, match="held out"):
        open_material(held_out, held_out, None)
    images = [image_of(1), image_of(2)]
    pets = write_coco(tmp_path / "pets", images, [box_of(k, k, 4, [0, 0, 50, 50]) for k in (1, 2)], PETS)
    with pytest.raises(EvaluationError, match=r"2 of its images are in .*pets, too; keep those to test on"):
        open_material(pets, None, None)
    with pytest.raises(EvaluationError, match="has other labels than"):
        open_material(scenes, pets, None)


def test_generated_images_have_the_layouts_of_the_share_alone(
    material: Material, synthesizer: Runner, tmp_path: Path
) -> None:
    """Read as real images are: the same labels and boxes, in the vocabulary of the real ones."""
    share = material.share(50, seed=0)
    made = synthetic(share, Recipe(per_layout=2), "drawn", tmp_path / "set", synthesizer)
    records = json.loads((tmp_path / "set" / "annotations" / "instances.json").read_text("utf-8"))["images"]
    layouts = {Path(record["file_name"]).name: record["layout"] for record in records}
    assert len(layouts) == 2 * len(share.examples)
    real = {example.image.stem: example for example in share.examples}
    assert {layouts[example.image.name] for example in made} <= real.keys()
    assert len(made) > len(share.examples)
    for example in made:
        layout = real[layouts[example.image.name]]
        boxes = {
            label: [b for k, b in zip(layout.labels, layout.boxes, strict=True) if k == label]
            for label in example.labels
        }
        for label, box in zip(example.labels, example.boxes, strict=True):
            assert any(box == pytest.approx(one, abs=1e-4) for one in boxes[label])


def test_labels_of_a_set_of_ones_own_keep_their_ids(tmp_path: Path, synthesizer: Runner) -> None:
    """The model knows cars as 23, the set as 2."""
    categories = [{"id": 7, "name": "sky"}, {"id": 9, "name": "car"}]
    objects = [(7, [0, 0, 100, 50]), (9, [0, 50, 50, 50]), (9, [50, 50, 50, 50])]
    annotations = [box_of(10 * k + n, k, *one) for k in (1, 2) for n, one in enumerate(objects)]
    source = open_data(write_coco(tmp_path / "own", [image_of(1), image_of(2)], annotations, categories))
    made = synthetic(source, Recipe(), "drawn", tmp_path / "set", synthesizer)
    assert made
    assert {label for example in made for label in example.labels} == {1, 2}


# runs


def a_study(scenes: Path, held_out: Path, out: Path, **changes: Any) -> Study:
    """A study of networks that learn next to nothing."""
    study = Study(scenes, held_out, out, (50, 100), (1,), seeds=1, budget=Budget(2, 4, 3))
    return replace(study, **changes)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_detector")
def test_the_experiment_goes_on_where_it_was(
    scenes: Path, held_out: Path, synthesizer: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted after a detector has learnt and before it was tested, it ends with the figures of one that was not,
    and each network has been trained once."""
    whole = Counted()
    expected = json.loads(run(a_study(scenes, held_out, tmp_path / "whole"), synthesizer, whole).read_text())
    assert whole.totals("detector") == [2] * 6, "as many updates for every row"
    assert whole.totals("learning labels") == [3] * 6
    assert whole.lines[0] == "row 1 of 6: 50%, real alone, seed 0"
    assert whole.lines[-1].startswith("row 6 of 6: 100%, generated alone, tight boxes, seed 0; all rows in 0:0")

    study, seen = a_study(scenes, held_out, tmp_path / "stopped"), []

    def stopped(*arguments: Any) -> Any:
        seen.append(arguments)
        return None if len(seen) == 3 else detect(*arguments)

    monkeypatch.setattr(f"{usefulness_learning.__name__}.detect", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(study, synthesizer, first := Counted())
    early = json.loads((study.out / "usefulness.json").read_text())
    assert len(early["missing"]) == 4
    assert "**Not measured yet:** 100-alone, seed 0; " in (study.out / "usefulness.md").read_text()
    (done_elsewhere,) = (tmp_path / "whole" / "rows").glob("100-generated-tight-*.json")
    second = Counted()
    second.on_note["row 5 of 6"] = lambda: shutil.copy(done_elsewhere, study.out / "rows")
    table = run(study, synthesizer, second)
    assert json.loads(table.read_text()) == expected
    assert first.totals("detector") + second.totals("detector") == [2] * 5, "another process measured the sixth"
    assert not any((study.out / "networks").iterdir()), "hundreds of megabytes a row"

    kept = {file: file.stat().st_mtime_ns for file in (study.out / "rows").iterdir()}
    run(study, synthesizer, third := Counted())
    assert not third.begun, "nothing is left to train or to measure"
    longer = replace(study, budget=replace(study.budget, steps=3), shares=(100,))
    run(longer, synthesizer, fourth := Counted())
    assert fourth.totals("detector") == [3] * 4
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    next(iter(kept)).write_text("{")
    with pytest.raises(EvaluationError, match=r"\.json: damaged .*delete it"):
        run(study, synthesizer)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_detector")
def test_rows_of_generated_images(scenes: Path, held_out: Path, synthesizer: Runner, tmp_path: Path) -> None:
    """Each row says how many images it saw; tight boxes are those of masks; the row with drawn ones alone takes the
    images that were added to the real ones."""
    study = a_study(scenes, held_out, tmp_path / "out", shares=(100,), count=5)
    table = json.loads(run(study, synthesizer).read_text())
    counts = {row["row"]: (row["real_images"], row["generated_images"]) for row in table["rows"]}
    made = counts["100-1x"][1]
    real = table["real_images"]
    assert real / 2 < made <= real
    assert counts["100-alone"] == (real, 0)
    assert counts["100-1x"] == (real, made)
    assert counts["100-generated-drawn"] == (0, made)
    assert counts["100-generated-tight"][0] == 0
    assert table["held_out_images"] == 5
    sets = sorted((study.out / "generated").iterdir())
    assert [folder.name.split("-seed")[0] for folder in sets] == ["100-1x-drawn", "100-1x-tight"]
    drawn, tight = (json.loads((folder / "annotations/instances.json").read_text())["annotations"] for folder in sets)
    assert all(one["bbox"] == one["drawn_box"] for one in drawn)
    assert all(one["bbox"] == one["tight_box"] for one in tight)
    assert [one["segmentation"] for one in drawn] == [one["segmentation"] for one in tight], "the same images"


@pytest.mark.slow
def test_the_command(cli: Cli, scenes: Path, held_out: Path, tiny_model: Path, tmp_path: Path) -> None:
    """With the detector that users have, and a model that is not the bundled one."""
    out = tmp_path / "out"
    done = cli(
        *("experiment", "usefulness", "--data", scenes, "--held-out", held_out, "--out", out, "--model", tiny_model),
        *("--shares", "20", "--times", "1", "--seeds", 1, "--steps", 1, "--batch", 2, "--classifier-steps", 2),
        *("--count", 2, "--jitter", "shift=0.2", "--runner", "onnxrt"),
        check=True,
    )
    assert "# Do generated images help?" in done.stdout
    assert str(tmp_path) not in (out / "usefulness.md").read_text()
    table = json.loads((out / "usefulness.json").read_text())
    assert table["budget"] == {"steps": 1, "batch": 2, "classifier_steps": 2}
    assert table["jitter"] == {"shift": 0.2, "scale": 0.0, "flip": 0.0}
    assert str(tmp_path) not in json.dumps(table)
    with Image.open(out / "usefulness.png") as picture:
        assert picture.size > (800, 600)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--shares", "5"), ("--shares: 5% of", "under a batch of 8", "lower --batch")),
        (("--held-out", "nowhere"), ("nowhere: no such folder",)),
        (("--model", "nowhere"), ("nowhere",)),
        (("--runner", "best"), ("best", "onnxrt")),
    ],
)
def test_faults_are_told_before_anything_is_written(
    options: tuple[str, ...], words: tuple[str, ...], scenes: Path, held_out: Path, tiny_model: Path, tmp_path: Path
) -> None:
    folders = ("--data", scenes, "--held-out", held_out, "--out", tmp_path / "out", "--model", tiny_model)
    done = CliRunner().invoke(experiment, ["usefulness", *map(str, folders), *options])
    assert isinstance(done.exception, LostganError), done.output
    for word in words:
        assert word in str(done.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--shares", "0"), "'0' is no share"),
        (("--shares", "1,nan"), "'nan' is no share"),
        (("--times", "4,1.5"), "'1.5' is no number of images"),
        (("--jitter", "turn=1"), "there is no 'turn'"),
    ],
)
def test_options_that_are_none(options: tuple[str, ...], words: str) -> None:
    done = CliRunner().invoke(experiment, ["usefulness", "--data", "a", "--out", "b", *options])
    assert done.exit_code == 2
    assert words in done.output


# files


FACTS = {
    "model": "v2-128",
    "detector": "mobilenet",
    "real_images": 200,
    "held_out_images": 50,
    "objects": {"moon": 3, "sky": 90},
    "rare": ["moon"],
}


def results_of(study: Study, values: dict[str, list[float]]) -> dict[Any, dict[str, Any]]:
    """The same score for everything in a row."""
    arms = {arm.key: arm for arm in study.arms()}
    return {
        (arms[key], seed): {
            "real_images": 2,
            "generated_images": 2 * arms[key].times,
            "scores": {
                name: {"value": value, "better": "higher", "by_label": {"moon": value / 2, "sky": value}}
                for name in ("ap", "ap_rare", "ap50", "accuracy", "accuracy_rare")
            },
        }
        for key, of_seed in values.items()
        for seed, value in enumerate(of_seed)
    }


def test_effects_are_judged_between_rows_of_a_seed() -> None:
    study = Study(Path("data"), None, Path("out"), shares=(1, 5), times=(1, 4))
    values = {
        "1-alone": [10.0, 20.0, 30.0],
        "1-1x": [12.0, 22.1, 32.0],
        "1-4x": [8.0, 17.9, 28.0],
        "5-alone": [40.0, 41.0],
        "5-1x": [40.0, 43.0],
        "5-generated-drawn": [5.0, 6.0, 7.0],
        "5-generated-tight": [6.0, 7.1, 8.0],
    }
    table = tabulate(study, FACTS, results_of(study, values))
    verdicts = {effect["row"]: effect["verdict"] for effect in table["effects"] if effect["score"] == "ap_rare"}
    undecided = {"5-1x": "undecided", "5-4x": "not measured"}
    assert verdicts == {"1-1x": "helps", "1-4x": "harms", **undecided, "5-generated-tight": "helps"}
    assert {effect["than"] for effect in table["effects"] if effect["row"] == "5-4x"} == {"5-alone"}
    assert {effect["than"] for effect in table["effects"] if "tight" in effect["row"]} == {"5-generated-drawn"}
    left = ["5-4x, seed 0", "5-4x, seed 1", "5-alone, seed 2", "5-1x, seed 2", "5-4x, seed 2"]
    assert table["missing"] == left
    text = markdown(table)
    assert "| 1% | 1x generated added | 2 | 2 | 22.03 ± 10 |" in text
    assert f"| 1% | 1x generated added{' | 2.033 ± 0.058, helps' * 4} |" in text
    assert f"| 5% | 4x generated added{' | not measured' * 4} |" in text
    assert "| moon | 3 | 10 | 11.02 | 8.983 |" in text
    assert "5% | 4x generated added | - | - | - |" in text


def test_the_plot_shows_each_series() -> None:
    """Lines appear with results: without any the panels are empty."""
    study = Study(Path("data"), None, Path("out"), shares=(1, 5), times=(1,), seeds=2)
    empty = plot(tabulate(study, FACTS, {}))
    values = {"1-alone": [10.0, 20.0], "1-1x": [12.0, 22.0], "5-alone": [40.0, 41.0]}
    full = plot(tabulate(study, FACTS, results_of(study, values)))
    more = plot(tabulate(study, FACTS, results_of(study, values | {"5-1x": [43.0, 45.0]})))
    assert all(picture.startswith(b"\x89PNG") for picture in (empty, full, more))
    assert len({empty, full, more}) == 3
