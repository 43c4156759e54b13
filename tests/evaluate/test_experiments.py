"""The tables of the paper as experiments: their rows and claims, verdicts, and runs with tiny networks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lostgan_evaluate.experiments.tables import EXPERIMENTS, Experiment
from lostgan_evaluate.experiments.tabulate import Outcome, markdown, tabulate
from lostgan_evaluate.experiments.verdicts import Verdict, judge
from lostgan_evaluate.published import BETTER, published_figure
from lostgan_serve.errors import EvaluationError

TABLES = [experiment for name, experiment in EXPERIMENTS.items() if name != "semi"]


def named(experiment: Experiment) -> str:
    return experiment.name


@pytest.mark.parametrize("experiment", TABLES, ids=named)
def test_every_row_is_one_of_the_papers(experiment: Experiment) -> None:
    for row in experiment.rows:
        scores = [published_figure(experiment.table, row.method, row.resolution_px, score) for score in BETTER]
        assert any(scores), row.key


@pytest.mark.parametrize("experiment", TABLES, ids=named)
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


def test_table_4_is_by_label(tmp_path: Path) -> None:
    experiment = EXPERIMENTS["table4"]
    table = tabulate(outcome_of(experiment, tmp_path / "found", {"v2-256": [0.5]}, "nearest_mask_iou"), {})
    text = markdown(experiment, table)
    assert "| tree | 0.5 |" in text
    assert "| zebra | 256 | COCO-Stuff | 66.9 |" in text
