"""The results of `usefulness`: usefulness.json, and the same for people as a table and a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from lostgan_evaluate.experiments.tabulate import cell, summary
from lostgan_evaluate.experiments.usefulness_rows import Arm, Job, Study
from lostgan_evaluate.experiments.verdicts import CONFIDENCE, judge
from lostgan_evaluate.grids import DASH, Grid, shown
from lostgan_serve.files import write_file

FORMAT = "lostgan-serve usefulness 1"
JSON_FILE, MARKDOWN_FILE, PLOT_FILE = "usefulness.json", "usefulness.md", "usefulness.png"

SCORES: Mapping[str, str] = {
    "ap": "AP",
    "ap_rare": "AP, rare labels",
    "ap50": "AP50",
    "accuracy": "accuracy",
    "accuracy_rare": "accuracy, rare labels",
}
"""The scores by their names for people; all are in percent, and more is better."""

_JUDGED = ("ap", "ap_rare", "accuracy", "accuracy_rare")

Results = Mapping[Job, Mapping[str, Any]]
"""The results of the rows that have one."""


def write_usefulness(study: Study, facts: Mapping[str, Any], results: Results) -> Path:
    """Write all three files into `study.out`. Returns usefulness.json. facts: counts of the data and the model's name.
    Raises OutputError."""
    table = tabulate(study, facts, results)
    write_file(study.out / MARKDOWN_FILE, markdown(table).encode())
    write_file(study.out / PLOT_FILE, plot(table))
    write_file(study.out / JSON_FILE, json.dumps(table, indent=1).encode())
    return study.out / JSON_FILE


def tabulate(study: Study, facts: Mapping[str, Any], results: Results) -> dict[str, Any]:
    """The content of usefulness.json: the scores of rows over seeds, and whether generated images changed them."""
    arms = study.arms()
    rows = {arm: [results.get((arm, seed)) for seed in range(study.seeds)] for arm in arms}
    return {
        "format": FORMAT,
        "seeds": study.seeds,
        "budget": asdict(study.budget),
        "jitter": asdict(study.jitter),
        "variation": asdict(study.variation),
        **facts,
        "rows": [_row(arm, by_seed) for arm, by_seed in rows.items()],
        "effects": [effect for arm in arms if (than := _compared(arm)) for effect in _effects(arm, than, rows)],
        "missing": [f"{arm.key}, seed {seed}" for arm, seed in study.jobs() if (arm, seed) not in results],
    }


def _row(arm: Arm, by_seed: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    def of_seed(name: str) -> list[Any]:
        return [result["scores"].get(name) if result else None for result in by_seed]

    found = [result for result in by_seed if result]
    return {
        "row": arm.key,
        "series": arm.series,
        "share_percent": arm.share,
        "real_images": found[0]["real_images"] if found else None,
        "generated_images": found[0]["generated_images"] if found else None,
        "scores": {name: summary(of_seed(name)) for name in SCORES if any(of_seed(name))},
    }


def _compared(arm: Arm) -> Arm | None:
    """The row that another is compared with: real images alone, or generated ones with drawn boxes; None for these."""
    than = Arm(arm.share) if arm.real else replace(arm, box="drawn")
    return None if than == arm else than


def _effects(arm: Arm, than: Arm, rows: Mapping[Arm, Sequence[Mapping[str, Any] | None]]) -> list[dict[str, Any]]:
    """The differences of a row's scores from another's of the same seeds."""
    pair = {arm.key: rows[arm], than.key: rows[than]}
    effects = []
    for name in _JUDGED:
        values = {
            key: [
                result["scores"][name]["value"] if result and name in result["scores"] else None for result in of_seed
            ]
            for key, of_seed in pair.items()
        }
        judgement = judge({arm.key: 1.0, than.key: -1.0}, values, "higher")
        effects.append(
            {
                "row": arm.key,
                "than": than.key,
                "score": name,
                **asdict(judgement),
                "verdict": _VERDICTS[judgement.verdict],
            }
        )
    return effects


_VERDICTS = {
    "confirmed": "helps",
    "contradicted": "harms",
    "undecided": "undecided",
    "not measured": "not measured",
}


def markdown(table: Mapping[str, Any]) -> str:
    """The table for people."""
    grids = [_scores_grid(table), _effects_grid(table), *_label_grids(table)]
    parts = ["# Do generated images help?", _setting(table), *(grid.markdown() for grid in grids)]
    if table["missing"]:
        parts.append(f"**Not measured yet:** {'; '.join(table['missing'])}. The same command goes on with them.")
    return "\n\n".join(parts) + "\n"


def _setting(table: Mapping[str, Any]) -> str:
    budget, rare, tests = table["budget"], ", ".join(table["rare"]), table["held_out_images"]
    return (
        f"A detector and a classifier learn from a share of {table['real_images']} real images, without and with "
        f"images that {table['model']} generated for the layouts of that share, and are tested on {tests} held-out "
        f"real ones. Every row has the same budget, whatever its images: {budget['steps']} updates of "
        f"{budget['batch']} images for the detector ({table['detector']}), {budget['classifier_steps']} for the "
        "classifier. Scores are in percent, means and standard deviations over the seeds that are done, of "
        f"{table['seeds']}; a seed chooses the share, too. Rare labels are the rarest quarter: {rare}. Images "
        "that are added have their layouts' boxes."
    )


def _scores_grid(table: Mapping[str, Any]) -> Grid:
    names = [name for name in SCORES if any(name in row["scores"] for row in table["rows"])]
    rows = tuple(
        (
            f"{row['share_percent']:g}%",
            row["series"],
            *(DASH if row[key] is None else str(row[key]) for key in ("real_images", "generated_images")),
            *(cell(row["scores"].get(name)) for name in names),
        )
        for row in table["rows"]
    )
    return Grid("Scores", ("share", "images", "real", "generated", *(SCORES[name] for name in names)), rows)


def _effects_grid(table: Mapping[str, Any]) -> Grid:
    shown_of = {(effect["row"], effect["score"]): _effect(effect) for effect in table["effects"]}
    rows = tuple(
        (f"{row['share_percent']:g}%", row["series"], *(shown_of[row["row"], name] for name in _JUDGED))
        for row in table["rows"]
        if (row["row"], _JUDGED[0]) in shown_of
    )
    note = (
        "Differences from the same seed's real images alone and, of tight boxes, from drawn ones. A verdict needs a "
        f"difference over half of its {CONFIDENCE:.0%} confidence interval (Student's t)."
    )
    return Grid("Effects", ("share", "images", *(SCORES[name] for name in _JUDGED)), rows, note)


def _effect(effect: Mapping[str, Any]) -> str:
    difference = shown(effect["advantage"], effect["spread"])
    return effect["verdict"] if difference == DASH else f"{difference}, {effect['verdict']}"


def _label_grids(table: Mapping[str, Any]) -> list[Grid]:
    """AP and accuracy by label, the rarest label first, a table for each share."""
    grids = []
    for share in dict.fromkeys(row["share_percent"] for row in table["rows"]):
        columns = {
            f"{SCORES[name]}, {row['series']}": row["scores"][name]["by_label"]
            for name in ("ap", "accuracy")
            for row in table["rows"]
            if row["share_percent"] == share and name in row["scores"]
        }
        rows = tuple(
            (label, str(count), *(shown(part.get(label)) for part in columns.values()))
            for label, count in table["objects"].items()
        )
        note = "Objects are those of all real images."
        grids.append(Grid(f"By label, {share:g}% of the real images", ("label", "objects", *columns), rows, note))
    return grids


def plot(table: Mapping[str, Any]) -> bytes:
    """A PNG: scores against the share of real images, a line for each number of generated ones."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(10, 7.5), layout="constrained", sharex=True)
    lines = [row for row in table["rows"] if row["real_images"] != 0]
    series = list(dict.fromkeys(row["series"] for row in lines))
    for axis, name in zip(axes.flat, _JUDGED, strict=True):
        for number, one in enumerate(series):
            points = [(row["share_percent"], row["scores"][name]) for row in lines
                      if row["series"] == one and name in row["scores"]]  # fmt: skip
            # side by side, so that spreads do not hide each other
            xs = [share * 1.04 ** (number - (len(series) - 1) / 2) for share, _ in points]
            means, spreads = [score["mean"] for _, score in points], [score["spread"] or 0.0 for _, score in points]
            axis.errorbar(xs, means, spreads, label=one, color=f"C{number}", marker="o", capsize=4, linewidth=1.5)
        shares = sorted({row["share_percent"] for row in lines})
        axis.set_xscale("log")
        axis.set_xticks(shares, [f"{share:g}%" for share in shares])
        axis.minorticks_off()
        axis.set(title=f"{_LEARNERS[name]}: {SCORES[name]}", ylabel="percent")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("share of the real images")
    axes.flat[0].legend()
    buffer = BytesIO()
    figure.savefig(buffer, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    return buffer.getvalue()


_LEARNERS = {"ap": "Detector", "ap_rare": "Detector", "accuracy": "Classifier", "accuracy_rare": "Classifier"}
