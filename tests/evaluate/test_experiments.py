"""The tables of the paper as experiments: their rows and claims, verdicts, and runs with tiny networks."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lostgan_evaluate.commands.experiment import experiment as command
from lostgan_evaluate.experiments import running
from lostgan_evaluate.experiments.known import Known
from lostgan_evaluate.experiments.running import Plan
from lostgan_evaluate.experiments.tables import EXPERIMENTS, Experiment
from lostgan_evaluate.experiments.tabulate import Outcome, markdown, tabulate
from lostgan_evaluate.experiments.verdicts import Verdict, judge
from lostgan_evaluate.metrics import registry
from lostgan_evaluate.published import BETTER, published_figure
from lostgan_serve.errors import DivergedError, EvaluationError, LostganError
from lostgan_train.settings import SemiSettings
from lostgan_train.synthetic.dataset import write_dataset
from lostgan_train.training import train
from training import Heard

TABLES = [experiment for name, experiment in EXPERIMENTS.items() if name != "semi"]
PAPERS = [experiment for experiment in TABLES if experiment.table is not None]


def named(experiment: Experiment) -> str:
    return experiment.name


@pytest.mark.parametrize("experiment", PAPERS, ids=named)
def test_every_row_is_one_of_the_papers(experiment: Experiment) -> None:
    assert experiment.table is not None
    for row in experiment.rows:
        scores = [published_figure(experiment.table, row.method, row.resolution_px, score) for score in BETTER]
        assert any(scores), row.key


@pytest.mark.parametrize("experiment", TABLES, ids=named)
def test_every_metric_is_there(experiment: Experiment) -> None:
    assert set(experiment.metrics) <= set(registry.NAMES)


@pytest.mark.parametrize("experiment", PAPERS, ids=named)
def test_the_papers_own_numbers_bear_out_its_claims(experiment: Experiment) -> None:
    """So a claim here has the right rows and direction."""
    claims = tabulate(Outcome(experiment, 3), {})["claims"]
    assert len(claims) == sum(len(claim.scores) for claim in experiment.claims)
    for claim in claims:
        assert claim["verdict"] == "not measured"
        if claim["same_within"] is None:
            assert claim["published"] > 0, claim
        else:
            assert abs(claim["published"]) <= claim["same_within"], claim


def test_networks_of_one_name_have_the_same_settings() -> None:
    """Experiments share networks by name."""
    known: dict[str, Any] = {}
    for experiment in TABLES:
        for row in experiment.rows:
            assert known.setdefault(row.model.name, row.model) == row.model
    assert len({json.dumps(dict(model.changes), sort_keys=True) for model in known.values()}) == len(known)


def test_another_network_for_all_rows() -> None:
    small = EXPERIMENTS["table6"].of_variant("v2-128")
    assert {row.model.name for row in small.rows} == {"v2-128", "v2-128-spade"}
    assert all(row.model.changes["variant"] == "v2-128" for row in small.rows)
    with pytest.raises(EvaluationError, match=r"--variant v2-128: .*table1.*--rows"):
        EXPERIMENTS["table1"].of_variant("v2-128")
    with pytest.raises(EvaluationError, match="--rows v3: table1 has real-64, "):
        EXPERIMENTS["table1"].with_rows(("v1-64", "v3"))


@pytest.mark.parametrize(
    ("a", "b", "better", "same", "verdict"),
    [
        ([3.0, 3.1, 3.2], [1.0, 1.1, 1.2], "higher", None, "confirmed"),
        ([3.0, 3.1, 3.2], [1.0, 1.1, 1.2], "lower", None, "contradicted"),
        ([1.0, 2.0, 3.0], [1.5, 1.0, 3.2], "higher", None, "undecided"),
        ([3.0], [1.0], "higher", None, "undecided"),
        ([3.0, None, 3.2], [1.0, 1.1, None], "higher", None, "undecided"),
        ([], [1.0], "higher", None, "not measured"),
        ([None, 1.0], [1.0, None], "higher", None, "not measured"),
        ([1.0, 1.01, 0.99], [1.0, 1.0, 1.0], "higher", 0.05, "confirmed"),
        ([2.0, 2.01, 1.99], [1.0, 1.0, 1.0], "higher", 0.05, "contradicted"),
        ([0.9, 1.1, 1.0], [1.0, 1.0, 1.0], "higher", 0.05, "undecided"),
    ],
)
def test_verdicts(
    a: list[float | None], b: list[float | None], better: Any, same: float | None, verdict: Verdict
) -> None:
    assert judge({"a": 1.0, "b": -1.0}, {"a": a, "b": b}, better, same).verdict == verdict


def test_the_margin_is_students() -> None:
    """Three differences of mean 2 and standard deviation 1: 4.303 / sqrt(3) either way, so undecided."""
    judgement = judge({"a": 1.0, "b": -1.0}, {"a": [2.0, 3.0, 4.0], "b": [1.0, 1.0, 1.0]}, "higher")
    assert judgement.advantage == pytest.approx(2.0)
    assert judgement.spread == pytest.approx(1.0)
    assert judgement.margin == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert judgement.verdict == "undecided"


def test_rows_of_a_seed_are_compared_with_each_other() -> None:
    """Seeds may differ by more than rows do."""
    values = {"a": [1.0, 11.0, 21.1], "b": [0.5, 10.4, 20.6]}
    assert judge({"a": 1.0, "b": -1.0}, values, "higher").verdict == "confirmed"


def outcome_of(experiment: Experiment, folder: Path, values: dict[str, list[float]], score: str) -> Outcome:
    """Evaluations with one score."""
    outcome = Outcome(experiment, len(next(iter(values.values()))))
    folder.mkdir(exist_ok=True)
    for name, of_seed in values.items():
        for seed, value in enumerate(of_seed):
            path = folder / f"{name}-{seed}.json"
            found = {"value": value, "better": "lower", "real": 1.0, "by_label": {"tree": value, "car": 1.0}}
            path.write_text(json.dumps({"scores": {score: found}, "data": {"vocabulary": "scenes"}}))
            outcome.evaluations[name, seed] = path
    return outcome


def test_a_table_has_means_spreads_and_verdicts(tmp_path: Path) -> None:
    experiment = EXPERIMENTS["table7"].with_rows(("full", "without-object-head"))
    values = {"v2-128": [10.0, 11.0, 12.0], "v2-128-without-object-head": [20.0, 21.5, 22.0]}
    table = tabulate(outcome_of(experiment, tmp_path / "found", values, "fd_efficientnet_lite0"), {"steps": 5})
    full = next(row for row in table["rows"] if row["row"] == "full")
    assert full["scores"]["fd_efficientnet_lite0"]["mean"] == pytest.approx(11.0)
    assert full["scores"]["fd_efficientnet_lite0"]["spread"] == pytest.approx(1.0)
    assert full["published"]["FID"] == {"value": 24.76, "spread": None, "text": "24.76"}
    assert {tuple(sorted(claim.weights)) for claim in experiment.claims} == {("full", "without-object-head")}
    verdicts = {(claim["text"], claim["score"]): claim["verdict"] for claim in table["claims"]}
    assert verdicts["the full model is better than w/o object head in D", "fd_efficientnet_lite0"] == "confirmed"
    assert verdicts["the full model is better than w/o object head in D", "IS"] == "not measured"
    text = markdown(experiment, table)
    assert "| Full LostGAN-V2 | v2-128 | 11 ± 1 |" in text
    assert "| w/o object head in D | 128 | COCO-Stuff | 9.51 ± 0.22 | 57.06 | 0.55 ± 0.11 |" in text
    assert "steps 5" in text


def test_rows_of_real_images_take_their_scores(tmp_path: Path) -> None:
    experiment = EXPERIMENTS["table1"].with_rows(("real-128", "v2-128"))
    table = tabulate(outcome_of(experiment, tmp_path / "found", {"v2-128": [3.0, 5.0]}, "is_x"), {})
    means = {row["row"]: row["scores"]["is_x"]["mean"] for row in table["rows"]}
    assert means == {"real-128": 1.0, "v2-128": 4.0}


def test_options_are_judged_by_what_they_are_there_for(tmp_path: Path) -> None:
    """A weaker grid is better, and nothing of it is said to be the paper's."""
    experiment = EXPERIMENTS["options"].with_rows(("base", "noise"))
    values = {"v2-128": [0.20, 0.21, 0.22], "v2-128-with-noise": [0.10, 0.12, 0.12]}
    table = tabulate(outcome_of(experiment, tmp_path / "found", values, "grid"), {})
    verdicts = {(claim["text"], claim["score"]): (claim["verdict"], claim["published"]) for claim in table["claims"]}
    assert verdicts == {
        ("it is better with noise", "grid"): ("confirmed", None),
        ("it is better with noise", "FID"): ("not measured", None),
    }
    text = markdown(experiment, table)
    assert "| with noise | v2-128-with-noise | 0.1133 ± 0.012 |" in text
    assert "Published" not in text


def test_each_option_is_one_setting_beside_the_others(tmp_path: Path) -> None:
    plan = a_plan(tmp_path, tmp_path, tmp_path, EXPERIMENTS["options"])
    base, *others = (running.settings_of(plan, row.model, 0).to_json() for row in plan.rows())
    changed = [{name for name, value in other.items() if value != base[name]} for other in others]
    assert changed == [
        {"max_pool_masks"},
        {"label_context"},
        {"noise"},
        {"texture_weight"},
        {"diversity_weight"},
        {"mask_weight"},
    ]


def test_table_4_is_by_label(tmp_path: Path) -> None:
    experiment = EXPERIMENTS["table4"]
    table = tabulate(outcome_of(experiment, tmp_path / "found", {"v2-256": [0.5]}, "nearest_mask_iou"), {})
    text = markdown(experiment, table)
    assert "| tree | 0.5 |" in text
    assert "| zebra | 256 | COCO-Stuff | 66.9 |" in text


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held-out") / "scenes"
    write_dataset(folder, 12, 64, workers=1, held_out=True)
    return folder


def a_plan(data: Path, held_out: Path, out: Path, experiment: Experiment, **changes: Any) -> Plan:
    """A plan of networks that learn nothing, with metrics that few images are enough for."""
    options = {"data": data, "ch": 2, "batch": 4, "steps": 2, "workers": 0, "perceptual": "none"}
    plan = Plan(experiment, options, out, out / "networks", 2, ("is", "kid"), held_out, samples=1)
    return replace(plan, **changes)


SMALLEST = EXPERIMENTS["table1"].with_rows(("real-64", "v1-64"))


@pytest.mark.slow
def test_an_experiment_goes_on_where_it_was(
    scenes: Path, held_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in the second network: the first is neither trained nor measured again, and the result is there."""
    plan = a_plan(scenes, held_out, tmp_path / "out", SMALLEST)
    trained: list[str] = []

    def stopped(settings: Any, out: Path, **more: Any) -> None:
        trained.append(out.name)
        if settings.seed == 0 or len(trained) > 2:
            train(settings, out, **more)

    monkeypatch.setattr(f"{running.__name__}.train", stopped)
    with pytest.raises(KeyboardInterrupt):
        running.run(plan)
    early = json.loads((plan.out / "table.json").read_text())
    table = json.loads(running.run(plan, heard := Heard()).read_text())
    assert trained == ["v1-64-seed0", "v1-64-seed1", "v1-64-seed1"]
    assert sum(line.startswith("measuring kid") for line in heard.lines) == 1
    assert "network 2 of 2: v1-64, seed 1" in heard.lines
    row, before = table["rows"][1]["scores"], early["rows"][1]["scores"]
    assert {name.partition("_")[0] for name in row} == {"is", "kid"}
    for name, score in row.items():
        first, second = score["values"]
        assert before[name]["values"] == [first, None]
        assert first != second
    assert table["rows"][0]["scores"].keys() == {name for name in row if name.startswith("is")}

    running.run(plan, heard := Heard())
    assert not heard.counts, "nothing is left to train or to measure"
    (released := plan.networks / "v1-64-seed0" / "generator.safetensors").write_bytes(b"of an earlier state")
    os.utime(released, (1, 1))
    assert json.loads(running.run(plan).read_text())["rows"] == table["rows"], "released again, and measured already"
    more = replace(plan, options={**plan.options, "steps": 3}, seeds=1)
    again = json.loads(running.run(more).read_text())
    assert again["rows"][1]["scores"]["is_efficientnet_lite0"]["values"] != row["is_efficientnet_lite0"]["values"][:1]
    with pytest.raises(EvaluationError, match="trained for 3 steps, more than --steps 2"):
        running.run(replace(plan, seeds=1))
    with pytest.raises(EvaluationError, match=r"v1-64-seed0: was trained with --ch 2, not 3; .*--networks"):
        running.run(replace(plan, options={**plan.options, "ch": 3}))


@pytest.mark.slow
def test_values_of_another_machine_stand(scenes: Path, held_out: Path, tmp_path: Path) -> None:
    first = a_plan(scenes, held_out, tmp_path / "first", SMALLEST, seeds=1)
    table = running.run(first)
    more = replace(first, out=tmp_path / "more", networks=tmp_path / "own", seeds=2, known=Known.read(table))
    found = json.loads(running.run(more, heard := Heard()).read_text())
    assert [path.name for path in more.networks.glob("v1-*")] == ["v1-64-seed1"]
    assert "network 1 of 1: v1-64, seed 1" in heard.lines
    for row, before in zip(found["rows"], json.loads(table.read_text())["rows"], strict=True):
        assert row["scores"].keys() == before["scores"].keys()
        for name, score in row["scores"].items():
            assert score["values"][0] == before["scores"][name]["values"][0]
            assert len(score["values"]) == 2
            assert score["values"][1] is not None

    running.run(replace(more, seeds=1, networks=tmp_path / "none"))
    assert not list((tmp_path / "none").glob("v1-*"))
    with pytest.raises(EvaluationError, match=r"table.json: its networks had steps 2, not 3; .*--known"):
        running.run(replace(more, options={**more.options, "steps": 3}))
    with pytest.raises(EvaluationError, match=r"its experiment is table1, not table7"):
        running.run(replace(more, experiment=EXPERIMENTS["table7"]))
    (other := tmp_path / "other.json").write_text(table.read_text().replace('"images": ', '"images": 1'))
    with pytest.raises(EvaluationError, match=r"other.json: was measured on"):
        running.run(replace(more, known=Known.read(other), networks=tmp_path / "untouched"))
    assert not (tmp_path / "untouched").exists(), "nothing was trained for it"
    for text in ("", "{}", '{"experiment": 1}'):
        other.write_text(text)
        with pytest.raises(EvaluationError, match=r"other.json: no table.json of `experiment`"):
            Known.read(other)


@pytest.mark.slow
def test_stages_of_one_network(scenes: Path, held_out: Path, tmp_path: Path) -> None:
    """v2-128 refines in four stages: the last is the full network, which is measured once."""
    experiment = EXPERIMENTS["table8"].of_variant("v2-128")
    plan = a_plan(scenes, held_out, tmp_path / "out", experiment, seeds=1, metrics=("kid",), count=4)
    table = json.loads(running.run(plan).read_text())
    assert [row["row"] for row in table["rows"]] == ["m0", "m1", "m2", "m3", "full"]
    assert len(list(plan.networks.glob("v2-128-*"))) == 1
    values = [next(iter(row["scores"].values()))["mean"] for row in table["rows"]]
    assert len(set(values)) > 1, values


def test_a_network_that_diverges_is_left_out(
    scenes: Path, held_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_: Any, **__: Any) -> None:
        raise DivergedError("losses stay not finite")

    monkeypatch.setattr(f"{running.__name__}.train", diverge)
    table = json.loads(running.run(a_plan(scenes, held_out, tmp_path / "out", SMALLEST)).read_text())
    assert table["missing"] == dict.fromkeys(("v1-64, seed 0", "v1-64, seed 1"), "its training diverged")
    assert all(not row["scores"] for row in table["rows"])
    assert "v1-64, seed 0: its training diverged" in (tmp_path / "out" / "table.md").read_text()


def test_the_command_writes_down_what_all_rows_share(
    monkeypatch: pytest.MonkeyPatch, scenes: Path, held_out: Path, tmp_path: Path
) -> None:
    def diverge(*_: Any, **__: Any) -> None:
        raise DivergedError("losses stay not finite")

    monkeypatch.setattr(f"{running.__name__}.train", diverge)
    words = ("table1", "--rows", "v1-64", "--metrics", "kid", "--l1-weight", "5@1,1@2", "--steps", "2", "--count", "3")
    folders = ("--data", str(scenes), "--held-out", str(held_out), "--out", str(tmp_path / "out"))
    done = CliRunner().invoke(command, [*words, *folders, "--perceptual", "none"])
    assert done.exit_code == 0, done.output
    budget = json.loads((tmp_path / "out" / "table.json").read_text())["budget"]
    shared = {"l1_weight": "5@1,1@2", "steps": 2, "count": 3, "data": "scenes", "held_out": held_out.name}
    assert shared.items() <= budget.items()
    assert str(tmp_path) not in (tmp_path / "out" / "table.md").read_text()


def test_settings_of_the_semi_supervised_rows(tmp_path: Path) -> None:
    """The three share a detector, and all rows the budget."""
    plan = a_plan(tmp_path / "data", tmp_path / "held", tmp_path / "out", EXPERIMENTS["semi"])
    plan = replace(plan, options={**plan.options, "detector_steps": 7})
    settings = {model.name: running.settings_of(plan, model, seed) for model, seed in plan.jobs() if seed == 1}
    semi = [value for value in settings.values() if isinstance(value, SemiSettings)]
    assert {value.detections for value in semi} == {"leave-out", "as-annotated", "weighted"}
    assert {value.detector_folder for value in semi} == {tmp_path / "out" / "networks" / "detector-seed1"}
    assert {value.detector_steps for value in semi} == {7}
    assert {(value.steps, value.ch, value.seed) for value in settings.values()} == {(2, 2, 1)}


def test_without_held_out_scenes_nothing_is_trained(scenes: Path, held_out: Path, tmp_path: Path) -> None:
    plan = replace(a_plan(scenes, held_out, tmp_path / "out", SMALLEST), held_out=None)
    with pytest.raises(LostganError, match="scenes"):
        running.run(plan)
    assert not plan.out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("table7",), "give --data"),
        (("table7", "--data", "nowhere", "--metrics", "fid"), "there is no 'fid'"),
        (("table2", "--data", "nowhere", "--variant", "v2-128"), "--rows"),
        (("table7", "--data", "nowhere", "--rows", "m0"), "table7 has without-layout-to-mask"),
        (("table1", "--data", "nowhere", "--metrics", "kid"), "nowhere: no such folder"),
    ],
)
def test_what_cannot_be_run(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(command, [*arguments, "--out", str(tmp_path / "out"), "--perceptual", "none"])
    assert isinstance(done.exception, LostganError), done.output
    assert words in str(done.exception)
    assert not (tmp_path / "out").exists()
