"""From layouts to pictures: layouts -> padded tensors -> runner -> results, in the order of the layouts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from lostgan_serve.contract import BACKGROUND_BOX, IMAGE_LABEL, OUTPUT_NAMES, Array, empty_batch
from lostgan_serve.errors import LayoutError, VocabularyError
from lostgan_serve.layout import Layout
from lostgan_serve.manifest import Manifest
from lostgan_serve.runners import Runner
from lostgan_serve.styles import image_code, style_code
from lostgan_serve.vocabulary import IMAGE_LABEL_NAME


@dataclass(frozen=True)
class Result:
    """What a model painted for a layout.

    names: the ids of the slots in use: the layout's objects in their order, then `__image__` where the vocabulary has
    a background. image: [R, R, 3] uint8 RGB. object_map: [R, R] uint8, the index into `names` of the object that owns
    the pixel, 255 for none. masks: [len(names), R, R] uint8, each object's soft mask x 255. An output that was not
    asked for is None.
    """

    layout: Layout
    names: tuple[str, ...]
    image: Array | None = None
    object_map: Array | None = None
    masks: Array | None = None


def generate(layouts: Iterable[Layout], runner: Runner, outputs: Sequence[str] = OUTPUT_NAMES) -> Iterator[Result]:
    """Paint layouts, yielding a result for each in their order.

    Layouts are batched up to the model's limit, and as many batches kept in flight as the runner is worth. outputs:
    the contract's outputs that are wanted. Raises LayoutError for a layout that the model cannot draw, before its
    batch is sent, and whatever the runner raises. After an error, or when the caller stops early, batches in flight are
    not waited for; `runner.close()` ends them where it can.
    """
    remaining = iter(layouts)
    limit = runner.manifest.max_batch
    in_flight: deque[tuple[list[Layout], Future[dict[str, Array]]]] = deque()
    pool = ThreadPoolExecutor(runner.concurrency)
    try:
        while True:
            # one batch more than can run, so that the next is ready when a runner's thread is free
            while len(in_flight) <= runner.concurrency and (batch := list(islice(remaining, limit))):
                in_flight.append((batch, pool.submit(runner.run, to_tensors(batch, runner.manifest), outputs)))
            if not in_flight:
                return
            batch, future = in_flight.popleft()
            arrays = future.result()
            for index, layout in enumerate(batch):
                yield _result(layout, {name: array[index] for name, array in arrays.items()}, runner.manifest)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def to_tensors(layouts: Sequence[Layout], manifest: Manifest) -> dict[str, Array]:
    """The contract's inputs for one batch. Raises LayoutError for a layout that the model cannot draw."""
    tensors = empty_batch(len(layouts), manifest.slots)
    for row, layout in enumerate(layouts):
        check(layout, manifest)
        tensors["z_img"][row] = image_code(layout.seed, layout.truncation)
        for slot, item in enumerate(layout.objects):
            seed = layout.seed if item.seed is None else item.seed
            tensors["labels"][row, slot] = manifest.vocabulary.id_of(item.label)
            tensors["boxes"][row, slot] = item.box
            tensors["z_obj"][row, slot] = style_code(seed, item.id, layout.truncation)
        if manifest.vocabulary.background:
            slot = len(layout.objects)
            tensors["labels"][row, slot] = IMAGE_LABEL
            tensors["boxes"][row, slot] = BACKGROUND_BOX
            tensors["z_obj"][row, slot] = style_code(layout.seed, IMAGE_LABEL_NAME, layout.truncation)
    return tensors


def check(layout: Layout, manifest: Manifest) -> None:
    """Raise LayoutError unless the model knows the labels and has a slot for every object."""
    if len(layout.objects) > manifest.capacity:
        raise LayoutError(
            f"{layout.source}: objects: {len(layout.objects)} of them, but the model has room for {manifest.capacity}; "
            f"remove some, or export one with --max-objects {len(layout.objects)}"
        )
    for index, item in enumerate(layout.objects):
        try:
            manifest.vocabulary.id_of(item.label)
        except VocabularyError as error:
            raise LayoutError(f"{layout.source}: objects[{index}].label: {error}") from None


def _result(layout: Layout, outputs: dict[str, Array], manifest: Manifest) -> Result:
    names = tuple(item.id for item in layout.objects)
    if manifest.vocabulary.background:
        names += (IMAGE_LABEL_NAME,)
    if "masks" in outputs:
        outputs["masks"] = outputs["masks"][: len(names)]
    return Result(layout, names, **outputs)
