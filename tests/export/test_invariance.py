"""What an image may depend on: not on empty slots, batch mates or, numerically aside, the order of the slots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lostgan_export import publish
from lostgan_serve.contract import OUTPUT_NAMES, Array
from lostgan_serve.encoding import encode
from lostgan_serve.layout import Layout
from lostgan_serve.runners.onnxrt import OnnxRunner
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.networks.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow

LABELS = list(Vocabulary.built_in("scenes"))

edges = st.floats(0, 0.8)
objects = st.fixed_dictionaries(
    {"label": st.sampled_from(LABELS), "box": st.tuples(edges, edges, st.floats(0.02, 0.2), st.floats(0.02, 0.2))}
) | st.sampled_from([{"label": "sky", "box": (0, 0, 1, 0.5)}, {"label": "sea", "box": (0, 0.4, 1, 0.6)}])
layouts = st.builds(
    lambda drawn, seed: Layout.parse(
        {"seed": seed, "objects": [{**item, "id": str(n)} for n, item in enumerate(drawn)]}
    ),
    st.lists(objects, min_size=1, max_size=6),
    st.integers(0, 2**32),
)
few_examples = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def many(tiny_repository: Path) -> OnnxRunner:
    """A generator with 12 slots."""
    return OnnxRunner(tiny_repository / "lostgan_128")


@pytest.fixture(scope="module")
def few(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> OnnxRunner:
    """The same with 6."""
    repository = tmp_path_factory.mktemp("few")
    return OnnxRunner(publish(load_checkpoint(tiny_checkpoint), repository, max_objects=6).path)


def paint(runner: OnnxRunner, *drawn: Layout) -> list[dict[str, Array]]:
    outputs = runner.run(encode(drawn, runner.manifest), OUTPUT_NAMES)
    return [{name: array[row].astype(int) for name, array in outputs.items()} for row in range(len(drawn))]


def assert_alike(one: dict[str, Array], other: dict[str, Array], count: int, levels: int) -> None:
    assert np.abs(one["image"] - other["image"]).max() <= levels
    assert np.abs(one["masks"][:count] - other["masks"][:count]).max() <= levels
    assert (one["object_map"] != other["object_map"]).mean() <= 0.002  # ties between masks may fall either way


@given(layouts)
@few_examples
def test_empty_slots_do_not_matter(few: OnnxRunner, many: OnnxRunner, layout: Layout) -> None:
    (one,), (other,) = paint(few, layout), paint(many, layout)
    assert_alike(one, other, len(layout.objects), levels=1)
    assert not other["masks"][len(layout.objects) :].any()


@given(layouts, st.lists(layouts, min_size=1, max_size=4), st.data())
@few_examples
def test_batch_mates_do_not_matter(few: OnnxRunner, layout: Layout, mates: list[Layout], data: Any) -> None:
    row = data.draw(st.integers(0, len(mates)))
    together = paint(few, *mates[:row], layout, *mates[row:])
    assert_alike(paint(few, layout)[0], together[row], len(layout.objects), levels=1)


@given(layouts, st.data())
@few_examples
def test_the_order_of_the_objects_does_not_matter(few: OnnxRunner, layout: Layout, data: Any) -> None:
    """Two objects with the same mask may swap in the object map; the image and the masks stay."""
    order = data.draw(st.permutations(range(len(layout.objects))))
    shuffled = Layout(tuple(layout.objects[k] for k in order), layout.seed)
    (before,), (after,) = paint(few, layout), paint(few, shuffled)
    assert np.abs(before["image"] - after["image"]).max() <= 2
    assert np.abs(before["masks"][list(order)] - after["masks"][: len(order)]).max() <= 2
