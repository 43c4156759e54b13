"""Scenes as a folder in COCO-Stuff's format: images/<seed>.png and one annotations.json with masks as compressed RLE.

Scene k is a function of its seed alone, so the folder does not depend on how many workers drew it, and a run that was
interrupted goes on where it stopped. Until annotations.json is there, `.parts` holds the plan and what is finished.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image
from pycocotools import mask as rle  # type: ignore[import-untyped]

from lostgan_serve.errors import OutputError
from lostgan_serve.files import parse_json, write_file, writing
from lostgan_serve.progress import SILENT, Progress
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.synthetic.compose import Scene, draw_scene

Json: TypeAlias = dict[str, Any]

DRAWING = 2
"""Raise it whenever a seed draws another picture than before: folders of one drawing are not completed by another."""

DESCRIPTION = "lostgan-serve scenes"
"""By these words in `info` drawn scenes are known from other sets."""

STUFF = ("sky", "mountain", "hill", "forest", "sea", "lake", "grass", "field", "sand", "snow", "road")
SMALLEST_PX, LARGEST_PX, STEP_PX = 32, 1024, 4
MOST_SEEDS = 10**8
FIRST_HELD_OUT_SEED = 50_000_000
"""Scenes from here on are for evaluation; training sets are drawn from below."""

_SHARD = 100
_PARTS = ".parts"
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def write_dataset(
    out: Path,
    count: int,
    side_px: int,
    first_seed: int | None = None,
    workers: int | None = None,
    progress: Progress = SILENT,
    held_out: bool = False,
) -> None:
    """Draw scenes first_seed ... first_seed + count - 1 into `out`, or finish the run that stopped there.

    first_seed: by default the first there is. workers: processes that draw, by default one for each core. held_out:
    draw for evaluation, from `FIRST_HELD_OUT_SEED` on; without it those seeds are refused, so that nothing is trained
    on the scenes that it is scored on. The plan in annotations.json tells which of the two a folder is. Raises
    OutputError for seeds of the other kind, and for a folder that cannot be written or that holds anything but these
    scenes.
    """
    if first_seed is None:
        first_seed = FIRST_HELD_OUT_SEED if held_out else 0
    _check(count, side_px, first_seed, held_out)
    plan = {"drawing": DRAWING, "count": count, "side_px": side_px, "first_seed": first_seed}
    if _begin(out, plan):
        progress.note(f"{out}: all {count} scenes are drawn already")
        return
    shards = [range(k, min(k + _SHARD, first_seed + count)) for k in range(first_seed, first_seed + count, _SHARD)]
    missing = [shard for shard in shards if not _part(out, shard).exists()]
    draw, seeds = partial(_write_scene, out / "images", side_px), [seed for shard in missing for seed in shard]
    done = count - len(seeds)
    with progress.count("drawing", count, done) as advance, _mapped(draw, seeds, workers) as records:
        for shard in missing:
            part = []
            for record in islice(records, len(shard)):
                part.append(record)
                done += 1
                advance(done, "")
            write_file(_part(out, shard), json.dumps(part).encode())
    _finish(out, plan, (_part(out, shard) for shard in shards))


def record_of(scene: Scene, seed: int) -> Json:
    """The entry of one scene in annotations.json: its image, and its annotations without their ids."""
    side_px, vocabulary = scene.image.shape[0], Vocabulary.built_in("scenes")
    annotations = []
    for label, mask in zip(scene.labels, scene.masks, strict=True):
        code = rle.encode(np.asfortranarray(mask, np.uint8))
        annotations.append(
            {
                "image_id": seed,
                "category_id": vocabulary.id_of(label),
                "bbox": rle.toBbox(code).tolist(),
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": {"size": [side_px, side_px], "counts": code["counts"].decode("ascii")},
            }
        )
    image = {"id": seed, "file_name": f"{seed:08d}.png", "width": side_px, "height": side_px, "kind": scene.kind}
    return {"image": image, "annotations": annotations}


def categories() -> list[Json]:
    """The vocabulary "scenes" as COCO categories."""
    return [
        {"id": number, "name": name, "supercategory": "stuff" if name in STUFF else "thing"}
        for number, name in enumerate(Vocabulary.built_in("scenes").labels)
        if number
    ]


def _check(count: int, side_px: int, first_seed: int, held_out: bool) -> None:
    if not SMALLEST_PX <= side_px <= LARGEST_PX or side_px % STEP_PX:
        raise OutputError(
            f"{side_px} px: scenes are drawn at multiples of {STEP_PX} from {SMALLEST_PX} to {LARGEST_PX} px"
        )
    if count < 1 or first_seed < 0 or first_seed + count > MOST_SEEDS:
        raise OutputError(f"{count} scenes from seed {first_seed}: seeds run from 0 to {MOST_SEEDS - 1}")
    if held_out and first_seed < FIRST_HELD_OUT_SEED:
        raise OutputError(f"{count} scenes from seed {first_seed}: held-out scenes start at seed {FIRST_HELD_OUT_SEED}")
    if not held_out and first_seed + count > FIRST_HELD_OUT_SEED:
        raise OutputError(
            f"{count} scenes from seed {first_seed}: seeds from {FIRST_HELD_OUT_SEED} on are held out for evaluation; "
            "end below them, or draw with --held-out"
        )


def _begin(out: Path, plan: Json) -> bool:
    """Make the folder, or make sure that what is in it belongs to the plan. Returns whether all is done already."""
    with writing(out):
        for path in (out / "annotations.json", out / _PARTS / "plan.json"):
            if path.exists():
                if (found := _plan_of(path)) != plan:
                    raise OutputError(f"{out}: holds other scenes ({found}); delete that folder or choose another")
                return path.name == "annotations.json"
        if out.exists() and any(out.iterdir()):
            raise OutputError(f"{out}: is not empty, and what it holds are not scenes; choose another folder")
        (out / "images").mkdir(parents=True, exist_ok=True)
    write_file(out / _PARTS / "plan.json", json.dumps(plan).encode())
    return False


def _plan_of(path: Path) -> Json | None:
    try:
        content = parse_json(path.read_bytes())
        plan: Json = content if path.name == "plan.json" else content["info"]["plan"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return plan


def _part(out: Path, shard: range) -> Path:
    return out / _PARTS / f"{shard[0]:08d}.json"


def _finish(out: Path, plan: Json, parts: Iterable[Path]) -> None:
    """Merge the parts into annotations.json, number the annotations, and clear away."""
    records = [record for part in parts for record in parse_json(part.read_bytes())]
    annotations = [annotation for record in records for annotation in record["annotations"]]
    content = {
        "info": {"description": DESCRIPTION, "plan": plan},
        "images": [record["image"] for record in records],
        "annotations": [{"id": number} | annotation for number, annotation in enumerate(annotations, 1)],
        "categories": categories(),
    }
    write_file(out / "annotations.json", json.dumps(content).encode())
    shutil.rmtree(out / _PARTS, ignore_errors=True)
    for leftover in (*out.glob(".tmp-*"), *(out / "images").glob(".tmp-*")):
        leftover.unlink(missing_ok=True)


def _write_scene(images: Path, side_px: int, seed: int) -> Json:
    scene = draw_scene(seed, side_px)
    buffer = BytesIO()
    Image.fromarray(scene.image).save(buffer, "PNG", compress_level=6)
    record = record_of(scene, seed)
    write_file(images / record["image"]["file_name"], buffer.getvalue())
    return record


# Processes


@contextmanager
def _mapped(function: Callable[[int], Json], seeds: list[int], workers: int | None = None) -> Iterator[Iterator[Json]]:
    """Yield function(seed) of each seed, in order, computed by processes that end with this one."""
    workers = min(workers or os.cpu_count() or 1, len(seeds))
    if workers < 2:
        yield map(function, seeds)
        return
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker)
    try:
        yield pool.map(function, seeds, chunksize=8)
    except BrokenProcessPool as error:
        raise OutputError("a drawing process was killed (out of memory?); run the same command to go on") from error
    finally:
        pool.shutdown(cancel_futures=True)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _start_worker() -> None:
    """Leave Ctrl-C to the parent process, and end when it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := parent_process():
        parent.join()
        os._exit(1)
