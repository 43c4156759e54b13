"""From layouts to results: layouts -> padded tensors -> runner -> results, in the order of the layouts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image

from lostgan_serve.colors import BLACK, object_colors
from lostgan_serve.contract import NO_OBJECT, OUTPUT_NAMES, Array
from lostgan_serve.encoding import encode
from lostgan_serve.errors import DeviceError, LostganError, RequestError
from lostgan_serve.layout import Layout
from lostgan_serve.manifest import Manifest
from lostgan_serve.png import png
from lostgan_serve.runners import Runner
from lostgan_serve.vocabulary import IMAGE_LABEL_NAME


@dataclass(frozen=True)
class Result:
    """The outputs of a model for a layout.

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

    def _repr_png_(self) -> bytes | None:
        """How a notebook shows it: the image and, to its right, the object map in the labels' colours."""
        pictures = [] if self.image is None else [self.image]
        if self.object_map is not None:
            palette = np.full((NO_OBJECT + 1, 3), BLACK, np.uint8)
            labels = [item.label for item in self.layout.objects] + [IMAGE_LABEL_NAME]
            palette[: len(labels)] = object_colors(labels)
            pictures.append(palette[self.object_map])
        return png(Image.fromarray(np.concatenate(pictures, axis=1))) if pictures else None


OnFailure = Callable[[Layout, LostganError], object]
"""Takes a layout that a runner failed at, and its error."""

_OF_A_LAYOUT = (RequestError, DeviceError)
"""Errors that one layout of a batch may cause, or a batch that is too large."""


def generate(
    layouts: Iterable[Layout],
    runner: Runner,
    outputs: Sequence[str] = OUTPUT_NAMES,
    on_failure: OnFailure | None = None,
) -> Generator[Result, None, None]:
    """Generate the pictures of layouts, yielding a result for each in their order.

    Layouts are batched up to the model's limit, and as many batches kept in flight as the runner is worth. outputs:
    the contract's outputs that are wanted. Raises LayoutError for a layout that the model cannot generate, before its
    batch is sent, and whatever the runner raises. After an error, or when the caller stops early, batches in flight are
    not waited for; `runner.close()` ends them where it can.

    on_failure: takes a layout that the model refuses, or that the machine has no room for, and the others go on. A
    batch with such a layout is tried once more, layout by layout. Other errors are raised nevertheless, since all
    layouts would meet them.
    """
    remaining = iter(layouts)
    limit = runner.manifest.max_batch
    in_flight: deque[tuple[list[Layout], Future[dict[str, Array]]]] = deque()
    pool = ThreadPoolExecutor(runner.concurrency)
    try:
        while True:
            # one batch more than can run, so that the next is ready when a runner's thread is free
            while len(in_flight) <= runner.concurrency and (batch := list(islice(remaining, limit))):
                in_flight.append((batch, pool.submit(runner.run, encode(batch, runner.manifest), outputs)))
            if not in_flight:
                pool.shutdown()  # see Cores.close: the caller may close the runner next
                return
            batch, future = in_flight.popleft()
            try:
                arrays = future.result()
            except _OF_A_LAYOUT:
                if on_failure is None:
                    raise
                yield from _one_by_one(batch, runner, outputs, on_failure)
            else:
                yield from results(batch, arrays, runner.manifest)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _one_by_one(
    batch: Sequence[Layout], runner: Runner, outputs: Sequence[str], on_failure: OnFailure
) -> Iterator[Result]:
    for layout in batch:
        try:
            arrays = runner.run(encode([layout], runner.manifest), outputs)
        except _OF_A_LAYOUT as error:
            on_failure(layout, error)
        else:
            yield from results([layout], arrays, runner.manifest)


def results(batch: Sequence[Layout], arrays: Mapping[str, Array], manifest: Manifest) -> Iterator[Result]:
    """The result of each layout of a batch, from a runner's outputs."""
    for index, layout in enumerate(batch):
        yield _result(layout, {name: array[index] for name, array in arrays.items()}, manifest)


def _result(layout: Layout, outputs: dict[str, Array], manifest: Manifest) -> Result:
    names = tuple(item.id for item in layout.objects)
    if manifest.vocabulary.background:
        names += (IMAGE_LABEL_NAME,)
    if "masks" in outputs:
        outputs["masks"] = outputs["masks"][: len(names)]
    return Result(layout, names, **outputs)
