"""From layouts to results: style codes, padding, batching and order, with a runner that records what it is sent."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lostgan_serve.colors import color_of
from lostgan_serve.contract import NO_OBJECT, OUTPUT_NAMES, PAD_BOX, Array, Tensors
from lostgan_serve.encoding import encode
from lostgan_serve.errors import LayoutError
from lostgan_serve.layout import Layout, LayoutObject
from lostgan_serve.manifest import Manifest
from lostgan_serve.normals import inverse_normal
from lostgan_serve.pipeline import Result, generate
from lostgan_serve.styles import style_codes
from lostgan_serve.vocabulary import Vocabulary


def manifest(vocabulary: str = "scenes", slots: int = 6, max_batch: int = 4) -> Manifest:
    return Manifest(
        variant="v2-128",
        resolution=128,
        slots=slots,
        max_batch=max_batch,
        vocabulary=Vocabulary.built_in(vocabulary),
        weights="untrained",
    )


def layout(*labels: str, **fields: Any) -> Layout:
    objects = [{"label": label, "box": [0, 0, 1, 0.5], "id": f"my {label}"} for label in labels]
    return Layout.parse({"objects": objects, **fields})


# Style codes


def style_code(seed: int, name: str, truncation: float) -> npt.NDArray[np.float32]:
    """The code of an object of this seed and id."""
    (codes,) = style_codes([Layout((LayoutObject("sky", (0, 0, 1, 1), name, seed),), truncation=truncation)])
    (code,) = codes.objects
    return np.asarray(code)


def image_code(seed: int, truncation: float) -> npt.NDArray[np.float32]:
    (codes,) = style_codes([Layout((), seed, truncation)])
    return codes.image


PROMISED = "1187b401169bba2b5fcbcb2d64e7e767fe614d3db798b0f28813f42bbd3330cb"


def test_codes_are_the_same_on_every_platform_and_release() -> None:
    """These digits are a promise: users keep seeds."""
    codes = np.concatenate([style_code(7, "rider", 2.0), image_code(7, 2.0), style_code(0, "", 8.0)])
    assert codes.dtype == np.float32
    assert hashlib.sha256(codes.astype("<f4").tobytes()).hexdigest() == PROMISED


def test_inverse_normal_agrees_with_the_standard_library() -> None:
    low, high = 10.0 ** -np.arange(4, 16), 1 - 2.0 ** -np.arange(9, 53)
    probabilities = np.concatenate([np.linspace(0.001, 0.999, 999), low, high])
    quantiles = [NormalDist().inv_cdf(p) for p in probabilities]
    np.testing.assert_allclose(inverse_normal(probabilities), quantiles, rtol=1e-13, atol=1e-15)


def test_codes_are_standard_normal() -> None:
    codes = np.concatenate([style_code(seed, "x", 8.0) for seed in range(200)])
    assert abs(codes.mean()) < 0.03
    assert abs(codes.std() - 1) < 0.02
    assert 0.03 < (np.abs(codes) > 2).mean() < 0.06


@given(st.integers(0, 2**63 - 1), st.text(max_size=20), st.floats(0.05, 8))
@settings(max_examples=50, deadline=None)
def test_truncation_redraws_what_is_beyond_it_and_nothing_else(seed: int, name: str, truncation: float) -> None:
    free, truncated = style_code(seed, name, 8.0), style_code(seed, name, truncation)
    assert np.abs(truncated).max() <= np.float32(truncation)
    kept = np.abs(free) < truncation * (1 - 1e-6)
    np.testing.assert_array_equal(truncated[kept], free[kept])


def test_different_seeds_ids_and_roles_give_different_codes() -> None:
    codes = [style_code(1, "a", 2.0), style_code(2, "a", 2.0), style_code(1, "b", 2.0), image_code(1, 2.0)]
    assert len({code.tobytes() for code in codes}) == 4


SCENES = list(Vocabulary.built_in("scenes"))
boxes = st.tuples(*[st.floats(0, 0.5)] * 2, *[st.floats(0.01, 0.5)] * 2).map(list)
drawn = st.lists(st.fixed_dictionaries({"label": st.sampled_from(SCENES), "box": boxes}), min_size=2, max_size=6)


@given(drawn, st.randoms(), st.data())
@settings(max_examples=50, deadline=None)
def test_an_objects_code_does_not_depend_on_the_others(objects: list[dict[str, Any]], rng: Any, data: Any) -> None:
    """Adding, removing, moving, reordering or relabelling other objects leaves it bit-identical."""
    objects = [{**item, "id": f"object {n}"} for n, item in enumerate(objects)]
    before = _codes(objects)
    kept = objects[0]
    others = [item for item in objects[1:] if rng.random() < 0.7]
    others = [{**item, "box": data.draw(boxes), "label": rng.choice(SCENES)} for item in others]
    changed = [*others, kept]
    rng.shuffle(changed)
    after = _codes(changed)
    for name in after:
        np.testing.assert_array_equal(after[name], before[name])


def _codes(objects: list[dict[str, Any]]) -> dict[str, Array]:
    parsed = Layout.parse({"objects": objects, "seed": 5})
    tensors = encode([parsed], manifest())
    return {item.id: tensors["z_obj"][0, slot] for slot, item in enumerate(parsed.objects)} | {"": tensors["z_img"][0]}


def test_an_object_with_a_seed_of_its_own_keeps_its_style() -> None:
    objects = [{"label": "car", "box": [0, 0, 1, 1], "seed": 12}, {"label": "road", "box": [0, 0, 1, 1]}]
    first, second = (encode([Layout.parse({"objects": objects, "seed": s})], manifest()) for s in (1, 2))
    np.testing.assert_array_equal(first["z_obj"][0, 0], second["z_obj"][0, 0])
    assert (first["z_obj"][0, 1] != second["z_obj"][0, 1]).any()
    assert (first["z_img"] != second["z_img"]).any()


# Tensors


def test_layouts_become_padded_tensors() -> None:
    tensors = encode([layout("sky", "sea"), layout("car")], manifest())
    assert {name: (array.dtype.name, array.shape) for name, array in tensors.items()} == {
        "labels": ("int64", (2, 6)),
        "boxes": ("float32", (2, 6, 4)),
        "z_obj": ("float32", (2, 6, 128)),
        "z_img": ("float32", (2, 128)),
    }
    assert tensors["labels"].tolist() == [[1, 5, 0, 0, 0, 0], [22, 0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(tensors["boxes"][1, 1:], np.array([PAD_BOX] * 5, np.float32))
    assert not tensors["z_obj"][1, 1:].any()


def test_visual_genome_layouts_end_with_a_background_object() -> None:
    genome = manifest("visual-genome", slots=4)
    tensors = encode([layout("tree", "man")], genome)
    assert tensors["labels"][0].tolist() == [2, 3, 0, 0]
    assert tensors["boxes"][0, 2].tolist() == [0, 0, 1, 1]
    assert tensors["z_obj"][0, 2].any()
    assert not tensors["z_obj"][0, 3].any()
    assert genome.capacity == 3


def test_too_many_objects_and_foreign_labels_are_refused() -> None:
    with pytest.raises(LayoutError, match=r"3 of them, but the model has room for 2.*--max-objects 3"):
        encode([layout("sky", "sea", "car")], manifest(slots=2))
    with pytest.raises(LayoutError, match=r"objects\[1\]\.label: unknown label 'lighthouse' in vocabulary coco-stuff"):
        encode([layout("sky", "lighthouse")], manifest("coco-stuff"))


# Batching


class RecordingRunner:
    """Gives back the labels it was sent as its pictures, and counts."""

    def __init__(self, own: Manifest, concurrency: int = 1) -> None:
        self.manifest, self.concurrency = own, concurrency
        self.batches: list[int] = []
        self.barrier = threading.Barrier(concurrency)

    def run(self, tensors: Tensors, outputs: Sequence[str]) -> dict[str, Array]:
        self.barrier.wait(timeout=10)  # breaks unless `concurrency` calls are in flight together
        self.batches.append(len(tensors["labels"]))
        batch, slots = tensors["labels"].shape
        every = {
            "image": np.broadcast_to(tensors["labels"][:, :1, None, None].astype(np.uint8), (batch, 2, 2, 3)),
            "object_map": np.zeros((batch, 2, 2), np.uint8),
            "masks": np.zeros((batch, slots, 2, 2), np.uint8),
        }
        return {name: every[name] for name in outputs}

    def close(self) -> None:
        pass


def test_batches_are_full_concurrent_and_in_order() -> None:
    runner = RecordingRunner(manifest(max_batch=2), concurrency=3)
    layouts = [layout(SCENES[n]) for n in range(12)]
    results = list(generate(layouts, runner))
    assert runner.batches == [2] * 6
    assert [result.layout for result in results] == layouts
    assert [result.image[0, 0, 0] for result in results if result.image is not None] == list(range(1, 13))


def test_only_what_is_asked_for_comes_back() -> None:
    (result,) = generate([layout("sky")], RecordingRunner(manifest()), outputs=["image"])
    assert result.image is not None
    assert result.object_map is None
    assert result.masks is None


def test_masks_are_those_of_the_slots_in_use() -> None:
    (result,) = generate([layout("tree", "man")], RecordingRunner(manifest("visual-genome")), OUTPUT_NAMES)
    assert result.names == ("my tree", "my man", "__image__")
    assert result.masks is not None
    assert result.masks.shape == (3, 2, 2)


def test_layouts_are_taken_lazily_and_a_bad_one_stops_there() -> None:
    taken = []

    def endless() -> Any:
        for n in range(1000):
            taken.append(n)
            yield layout(*["sky"] * 1) if n < 10 else layout(*SCENES[:7])

    results = generate(endless(), RecordingRunner(manifest(max_batch=2)))
    assert next(results).layout.objects[0].label == "sky"
    assert len(taken) <= 4
    with pytest.raises(LayoutError, match="room for 6"):
        list(results)


class StuckRunner(RecordingRunner):
    """Answers the first batch, and no other until it is let go."""

    def __init__(self) -> None:
        super().__init__(manifest(max_batch=1))
        self.let_go = threading.Event()

    def run(self, tensors: Tensors, outputs: Sequence[str]) -> dict[str, Array]:
        if self.batches:
            self.let_go.wait()
        return super().run(tensors, outputs)


def test_a_caller_that_stops_early_does_not_wait() -> None:
    runner = StuckRunner()
    results = generate([layout("sky")] * 5, runner)
    try:
        next(results)
        results.close()
        assert not runner.let_go.is_set()
        assert runner.batches == [1]
    finally:
        runner.let_go.set()


def test_an_error_does_not_wait_for_other_batches() -> None:
    runner = StuckRunner()
    results = generate([layout("sky"), layout("sky"), layout(*SCENES[:7])], runner)
    try:
        next(results)
        with pytest.raises(LayoutError, match="room for 6"):
            next(results)
        assert runner.batches == [1]
    finally:
        runner.let_go.set()


def test_a_result_shows_itself_in_a_notebook() -> None:
    image = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    owners = np.full((4, 4), NO_OBJECT, np.uint8)
    owners[1, 2] = 1
    result = Result(layout("sky", "sea"), ("my sky", "my sea"), image, owners)
    shown = np.asarray(Image.open(io.BytesIO(result._repr_png_() or b"")))
    np.testing.assert_array_equal(shown[:, :4], image)
    assert tuple(shown[1, 6]) == color_of("sea")
    assert not shown[0, 4:].any()
    assert Result(layout("sky"), ("my sky",))._repr_png_() is None
