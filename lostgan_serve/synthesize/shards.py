"""Making one shard of a plan: rounds of images until the filters let all pass, then its files in every format."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from lostgan_serve.contract import MAX_SLOTS, Array, concatenated, rows
from lostgan_serve.encoding import encode
from lostgan_serve.files import writing
from lostgan_serve.manifest import Manifest
from lostgan_serve.pipeline import Result, results
from lostgan_serve.png import png
from lostgan_serve.runners import Runner
from lostgan_serve.synthesize.filters import fingerprint, rejection
from lostgan_serve.synthesize.formats import FORMATS, IMAGES, LabelledImage
from lostgan_serve.synthesize.labelling import OUTPUTS, LabelledObject, labelled
from lostgan_serve.synthesize.parts import PARTS, Part
from lostgan_serve.synthesize.plan import Plan, PlanRow
from lostgan_serve.synthesize.recipe import Choices
from lostgan_serve.synthesize.scorer import OnnxScorer
from lostgan_serve.synthesize.store import Store, compact_json, write_text

_CHUNK = 8
"""Images that a thread takes at a time: their style codes are computed together, and at the end of a data set other
threads wait no longer than for these."""


def _encoded(image: Array, kind: str) -> bytes:
    """An image as the bytes of a file. JPEG and WebP lose little: quality 95, and JPEG's colours at full size."""
    picture = Image.fromarray(image)
    if kind == "png":
        return png(picture)
    data = io.BytesIO()
    picture.save(data, kind, quality=95, **({"subsampling": 0} if kind == "jpeg" else {}))
    return data.getvalue()


@dataclass(frozen=True)
class Job:
    """All that a shard depends on besides the model. It can be sent to other processes.

    first_image, first_shard: how many images and shards earlier runs have planned for the data set.
    """

    plan: Plan
    choices: Choices
    first_image: int
    first_shard: int

    def shard_name(self, number: int) -> str:
        """The name of one of the plan's shards in the data set."""
        return f"{self.first_shard + number:05}"

    def part(self, number: int) -> str:
        """The name of a shard's part, the file that says that the shard is there."""
        return f"{PARTS}/{self.shard_name(number)}.jsonl"

    def missing(self, store: Store, shards: Iterable[int]) -> list[int]:
        """Those of the shards that are not there yet."""
        there = {f"{PARTS}/{name}" for name in store.names(PARTS)}
        return [number for number in shards if self.part(number) not in there]


@dataclass(frozen=True)
class _Drawn:
    """An attempt at an image. rejected: why it is not good enough. print: its perceptual hash, where that is needed."""

    row: PlanRow
    attempt: int
    seed: int
    objects: list[LabelledObject] = field(default_factory=list)
    rejected: str | None = None
    print: Any = None


class ShardMaker:
    """Makes shards of a job, with a runner and a pool of threads for it."""

    def __init__(self, job: Job, runner: Runner, store: Store, pool: ThreadPoolExecutor) -> None:
        self._job, self._runner, self._store, self._pool = job, runner, store, pool
        scorer = job.choices.scorer
        self._scorer = None if scorer is None else OnnxScorer(scorer, runner.manifest.vocabulary)

    def make(self, number: int, made: Callable[[int], object]) -> Counter[str]:
        """Make a shard: all of its files, the part last. Returns its counts: images, and rejections by reason.

        made: is told how many more rows of the plan are done. Raises ModelError, ServerError and OutputError.
        """
        job, name = self._job, self._job.shard_name(number)
        kinds = [FORMATS[kind] for kind in job.choices.formats]
        pieces = dict.fromkeys(piece.format(shard=name) for kind in kinds for piece in kind.pieces)
        with self._store.staged([*pieces, job.part(number)], once=True) as stage:
            folder = stage / IMAGES.format(shard=name)
            with writing(folder):
                folder.mkdir(parents=True)
            counts: Counter[str] = Counter()
            planned = job.plan.shard(number)
            todo = [row for row in planned if row.refused is None]
            counts.update(row.refused for row in planned if row.refused)
            made(len(planned) - len(todo))
            kept = self._rounds(todo, folder, counts, made)
            images = [self._labelled(kept[index], name) for index in sorted(kept)]
            counts["images"] = len(images)
            with writing(stage):
                for kind in kinds:
                    if kind.write:
                        kind.write(stage, name, images, self._runner.manifest.vocabulary)
                write_text(stage / job.part(number), _part(counts, images).text())
        return counts

    def _rounds(
        self, todo: Sequence[PlanRow], folder: Path, counts: Counter[str], made: Callable[[int], object]
    ) -> dict[int, _Drawn]:
        """Generate rows until all pass or attempts run out. A round is judged in the order of its rows, so that the
        outcome does not depend on which thread was first."""
        kept: dict[int, _Drawn] = {}
        recipe = self._job.plan.recipe
        for attempt in range(recipe.attempts):
            chunks = [todo[first : first + _CHUNK] for first in range(0, len(todo), _CHUNK)]
            todo = []
            for chunk in self._pool.map(partial(self._draw, attempt=attempt, folder=folder), chunks):
                for drawn in chunk:
                    reason = drawn.rejected or self._duplicate(drawn, kept)
                    if reason is None:
                        kept[drawn.row.index] = drawn
                        made(1)
                        continue
                    counts[reason] += 1
                    self._file(drawn.row, folder).unlink(missing_ok=True)
                    todo.append(drawn.row)
            if not todo:
                break
        if todo:
            counts["given up"] = len(todo)
            made(len(todo))
        return kept

    def _draw(self, planned: Sequence[PlanRow], attempt: int, folder: Path) -> list[_Drawn]:
        """Generate rows, judge each image by itself, and write those that pass."""
        filters, found = self._job.plan.recipe.filters, []
        for row, result in zip(planned, self._results(planned, attempt), strict=True):
            objects = labelled(result)
            image = result.image
            assert image is not None
            reason = rejection(image, len(result.layout.objects), objects, filters, self._scorer)
            mark = fingerprint(image) if filters.duplicates and reason is None else None
            if reason is None:
                file = self._file(row, folder)
                with writing(file):
                    file.write_bytes(_encoded(image, self._job.choices.image))
            found.append(_Drawn(row, attempt, result.layout.seed, objects, reason, mark))
        return found

    def _results(self, planned: Sequence[PlanRow], attempt: int) -> Iterator[Result]:
        manifest, seed = self._runner.manifest, self._job.plan.recipe.seed
        layouts = [row.with_style(seed, attempt) for row in planned]
        tensors, most = encode(layouts, manifest), manifest.max_batch
        batches = [rows(tensors, first, first + most) for first in range(0, len(layouts), most)]
        return results(layouts, concatenated([self._runner.run(batch, OUTPUTS) for batch in batches]), manifest)

    def _duplicate(self, drawn: _Drawn, kept: dict[int, _Drawn]) -> str | None:
        least = self._job.plan.recipe.filters.duplicates
        if least and any(drawn.print - other.print < least for other in kept.values()):
            return "duplicates"
        return None

    def _file(self, row: PlanRow, folder: Path) -> Path:
        return folder / f"{self._job.first_image + row.index:08}.{self._job.choices.image}"

    def _labelled(self, drawn: _Drawn, shard: str) -> LabelledImage:
        """The records of an image, whose ids are functions of its row."""
        job, manifest = self._job, self._runner.manifest
        number = job.first_image + drawn.row.index + 1
        record = {
            "id": number,
            "file_name": f"{shard}/{self._file(drawn.row, Path()).name}",
            "width": manifest.resolution,
            "height": manifest.resolution,
            "license": 1,
            "plan_row": drawn.row.index,
            "layout": drawn.row.layout.name,
            "seed": drawn.seed,
            "attempt": drawn.attempt,
            "model": model_name(manifest),
        }
        return LabelledImage(record, [_annotation(item, number, job.choices.box, manifest) for item in drawn.objects])


def _part(counts: Counter[str], images: Sequence[LabelledImage]) -> Part:
    records = {
        "images": [compact_json(image.record) for image in images],
        "annotations": [compact_json(one) for image in images for one in image.annotations],
    }
    return Part(counts, records)


def model_name(manifest: Manifest) -> str:
    """A short name of the weights: the start of their checkpoint's hash."""
    return (manifest.checkpoint_sha256 or f"untrained-{manifest.seed}")[:16]


def _annotation(item: LabelledObject, image: int, box: str, manifest: Manifest) -> dict[str, Any]:
    return {
        "id": image * (MAX_SLOTS + 1) + item.slot,
        "image_id": image,
        "category_id": manifest.vocabulary.id_of(item.label),
        "name": item.id,
        "bbox": list(item.tight_box if box == "tight" else item.drawn_box),
        "drawn_box": list(item.drawn_box),
        "tight_box": list(item.tight_box),
        "segmentation": item.segment,
        "area": item.area,
        "visibility": item.visibility,
        "iscrowd": 0,
    }
