"""Generation with the masks of fewer stages, m0 ... mN (section 3.5.2, table 8 and figure 13)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from PIL import Image

from lostgan_evaluate.images import Region
from lostgan_evaluate.metrics import Metric, score_name, with_each_extractor
from lostgan_evaluate.metrics.generating import distance, first_layouts, generate_into, needs_runner
from lostgan_evaluate.metrics.inception_score import inception_score
from lostgan_evaluate.scores import Measured, Score
from lostgan_evaluate.sheets import Row, write_sheet
from lostgan_evaluate.subject import Subject, Tools, whole
from lostgan_serve.figures import Tile
from lostgan_serve.layout import Layout
from lostgan_serve.render import layout_picture
from lostgan_train.networks.runner import GeneratorRunner

SHEET = "mask-stages.png"

_COLUMNS, _TILE_PX = 8, 144

Stages = Mapping[int, Sequence[Path]]
"""The image of each layout by the last stage that refines masks."""


def _why_not(subject: Subject, tools: Tools) -> str | None:
    if reason := needs_runner(subject, tools):
        return reason
    if not isinstance(subject.runner, GeneratorRunner):
        return "an exported model refines masks in the stages that it was exported with; give a checkpoint"
    return None if subject.runner.checkpoint.generator.config.mask_stages else "the model does not refine its masks"


def _measure(subject: Subject, tools: Tools) -> Measured:
    layouts = first_layouts(subject, tools)
    stages = _generated(layouts, subject, tools)
    scores = with_each_extractor(partial(_scores, stages))(subject, tools).scores
    return Measured(scores, (_write_sheet(tools.out / SHEET, layouts, stages),))


def _generated(layouts: Sequence[Layout], subject: Subject, tools: Tools) -> Stages:
    """The images of each stage; those of all stages are the subject's own."""
    assert isinstance(subject.runner, GeneratorRunner)
    checkpoint = subject.runner.checkpoint
    count = checkpoint.generator.config.mask_stages
    stages: dict[int, Sequence[Path]] = {}
    for stage in range(count):
        folder, runner = tools.out / "stages" / f"m{stage}", GeneratorRunner(checkpoint, stage)
        stages[stage] = generate_into(folder, layouts, runner, tools, ("image", "object_map"))
    return stages | {count: [sample.file for sample in subject.first_styles()]}


def _scores(stages: Stages, extractor: str, subject: Subject, tools: Tools) -> list[Score]:
    reading, splits = subject.protocol.reading, subject.protocol.score_splits
    real = tools.features.features(extractor, whole(subject.real), reading)["features"]
    scores = []
    for stage, files in stages.items():
        found = tools.features.features(extractor, [Region(file) for file in files], reading)
        facts = {"last_stage": stage, "stages": max(stages), "images": len(files)}
        far = distance(extractor, found["features"], real, tools.seed)
        scores.append(replace(far, name=f"m{stage}_{far.name}", facts={**far.facts, **facts}))
        if "logits" in found and len(files) >= splits:
            value, spread = inception_score(found["logits"], splits, tools.seed)
            name = f"m{stage}_{score_name('is', extractor)}"
            facts_of_is = {**facts, "splits": splits, "spread": "over splits"}
            scores.append(Score(name, value, "higher", spread, facts=facts_of_is))
    return scores


def _write_sheet(path: Path, layouts: Sequence[Layout], stages: Stages) -> str:
    """Figure 13: the layouts, and below each the object map and image of every stage."""
    shown = range(min(_COLUMNS, len(layouts)))
    rows = [Row("layout", [Tile(layout_picture(layouts[k], _TILE_PX)) for k in shown])]
    for stage, files in stages.items():
        name = "m0" if stage == 0 else f"m0 ... m{stage}"
        rows.append(Row(f"{name}\nobject map", [Tile(_object_map(files[k])) for k in shown]))
        rows.append(Row(f"{name}\nimage", [Tile(Image.open(files[k])) for k in shown]))
    return write_sheet(path, rows, _TILE_PX)


def _object_map(image: Path) -> Image.Image:
    """The object map beside an image in its colours, without the legend."""
    with Image.open(image.with_suffix(".objects.png")) as picture:
        return picture.convert("RGB").crop((0, 0, picture.height, picture.height))


METRIC = Metric("mask-stages", "Quality with the masks of fewer stages, m0 to all", _why_not, _measure)
