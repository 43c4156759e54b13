"""Folders of pictures: names, provenance, and nothing generated twice."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import EXAMPLES, Cli, a_manifest
from lostgan_serve.choices import PICTURES
from lostgan_serve.contract import Array, Tensors, output_specs
from lostgan_serve.errors import LayoutError, LostganError, ModelError, RequestError, ServerUnavailableError
from lostgan_serve.layout import Layout
from lostgan_serve.png import png, provenance_of
from lostgan_serve.progress import Progress
from lostgan_serve.samples import SampleSet, styles


class FakeRunner:
    """Gives grey pictures. fails: the labels whose layouts it refuses. ends_after: batches before it is gone."""

    concurrency = 1

    def __init__(self, fails: Sequence[int] = (), ends_after: int = 1000) -> None:
        self.manifest = a_manifest("scenes", max_batch=2, variant="v2-128")
        self.fails, self.left = set(fails), ends_after
        self.generated = 0
        self.outputs: list[str] = []

    def run(self, tensors: Tensors, outputs: Sequence[str]) -> dict[str, Array]:
        if self.left == 0:
            raise ServerUnavailableError("grpc://far:8001: no server is ready")
        if self.fails & set(tensors["labels"][:, 0].tolist()):
            raise RequestError("refused")
        self.left -= 1
        self.outputs = list(outputs)
        batch = len(tensors["labels"])
        self.generated += batch
        specs = output_specs(self.manifest.slots, 128)
        return {s.name: np.full((batch, *s.dims), 1, s.dtype) for s in specs if s.name in outputs}

    def close(self) -> None:
        pass


class Told(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


def layouts(*labels: str) -> list[Layout]:
    return [
        Layout.parse({"objects": [{"label": label, "box": [0, 0, 1, 0.5]}], "seed": n}, name=f"l{n}")
        for n, label in enumerate(labels)
    ]


def filled(
    sample_set: SampleSet, wanted: Sequence[Layout], runner: FakeRunner, told: Progress | None = None
) -> list[str]:
    """The names of the files that a call writes."""
    return sorted(path.name for path in sample_set.fill(wanted, runner, progress=told or Progress()))


def test_the_same_call_again_generates_only_what_is_missing(tmp_path: Path) -> None:
    four, runner = layouts("sky", "sea", "hill", "lake"), FakeRunner()
    sample_set = SampleSet(tmp_path)
    assert len(filled(sample_set, four, runner)) == 13
    assert filled(sample_set, four, runner) == []
    assert runner.generated == 4
    (tmp_path / "l2.overlay.png").unlink()
    (tmp_path / "l3.png").write_bytes((tmp_path / "l3.png").read_bytes()[:-5])  # of a copy that was cut off
    (tmp_path / "contact-sheet.png").unlink()
    rewritten = filled(sample_set, four, runner)
    assert rewritten == [
        "contact-sheet.png",
        *(f"l{n}{kind}.png" for n in (2, 3) for kind in (".objects", ".overlay", "")),
    ]


def test_a_sheet_that_is_right_is_kept_and_costs_nothing(tmp_path: Path) -> None:
    many, runner, sample_set = layouts(*["sky"] * 12), FakeRunner(), SampleSet(tmp_path)
    filled(sample_set, many, runner)
    (tmp_path / "l11.png").unlink()
    assert filled(sample_set, many, runner) == ["l11.objects.png", "l11.overlay.png", "l11.png"]
    assert runner.generated == 13
    renamed = [replace(many[0], name="other"), *many[1:]]
    assert "contact-sheet.png" in filled(sample_set, renamed, runner)


def test_a_damaged_picture_is_made_anew(tmp_path: Path) -> None:
    sample_set, runner, (sky,) = SampleSet(tmp_path, ("image",)), FakeRunner(), layouts("sky")
    filled(sample_set, [sky], runner)
    whole = bytearray((tmp_path / "l0.png").read_bytes())
    whole[-30] ^= 1  # of the compressed pixels
    (tmp_path / "l0.png").write_bytes(whole)
    assert filled(sample_set, [sky], runner) == ["l0.png"]
    (tmp_path / "l0.png").write_bytes(b"")
    assert filled(sample_set, [sky], runner) == ["l0.png"]


def test_a_sheet_is_of_several_layouts_and_never_of_a_part_of_them(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="a sheet shows several layouts"):
        SampleSet(tmp_path, ("sheet",)).check(layouts("sky"))
    with pytest.raises(LostganError, match="1 of 3 layouts failed"):
        filled(SampleSet(tmp_path, ("sheet",)), layouts("sky", "sea", "hill"), FakeRunner(fails=[5]))
    assert list(tmp_path.iterdir()) == []


def test_overwrite_makes_everything_anew(tmp_path: Path) -> None:
    four, runner = layouts("sky", "sea", "hill", "lake"), FakeRunner()
    filled(SampleSet(tmp_path), four, runner)
    assert len(list(SampleSet(tmp_path).fill(four, runner, overwrite=True))) == 13
    assert list(SampleSet(tmp_path, ("sheet",)).fill(four, runner, overwrite=True)) == [tmp_path / "contact-sheet.png"]


def test_an_error_that_all_layouts_meet_ends_the_call_at_once(tmp_path: Path) -> None:
    class Replaced(FakeRunner):
        def run(self, *_: object) -> dict[str, Array]:
            self.generated += 1
            raise ModelError("another model is served now")

    runner, told = Replaced(), Told()
    with pytest.raises(ModelError, match="another model is served now; 9 of 9 layouts are missing"):
        filled(SampleSet(tmp_path), layouts(*["sky"] * 9), runner, told)
    assert runner.generated <= 3
    assert told.lines == [f"not generated: l{n} (l{n})" for n in range(9)]


def test_pictures_of_another_layout_style_or_model_are_made_anew(tmp_path: Path) -> None:
    (sky,), runner, sample_set = layouts("sky"), FakeRunner(), SampleSet(tmp_path)
    filled(sample_set, [sky], runner)
    for changed in (replace(sky, seed=5), replace(sky, truncation=1.0), replace(layouts("sea")[0], name=sky.name)):
        assert len(filled(sample_set, [changed], runner)) == 3
    runner.manifest = runner.manifest.model_copy(update={"checkpoint_sha256": "0" * 64})
    assert len(filled(sample_set, [changed], runner)) == 3


def test_only_asks_for_and_writes_no_more(tmp_path: Path) -> None:
    runner = FakeRunner()
    assert filled(SampleSet(tmp_path, ("image",)), layouts("sky", "sea"), runner) == ["l0.png", "l1.png"]
    assert runner.outputs == ["image"]
    assert filled(SampleSet(tmp_path, ("masks",)), layouts("sky"), runner) == ["l0.mask-00-sky-1.png"]
    assert filled(SampleSet(tmp_path, ("sheet",)), layouts("sky", "sea"), runner) == ["contact-sheet.png"]
    assert runner.outputs == ["image", "object_map"]


def test_a_layout_that_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    told = Told()
    with pytest.raises(LostganError, match="1 of 4 layouts failed, named above"):
        filled(SampleSet(tmp_path), layouts("sky", "sea", "hill", "lake"), FakeRunner(fails=[5]), told)
    assert told.lines == ["failed: l1 (l1): refused"]
    assert {path.name.partition(".")[0] for path in tmp_path.iterdir()} == {"l0", "l2", "l3"}


def test_a_server_that_is_gone_names_what_is_missing_and_keeps_the_rest(tmp_path: Path) -> None:
    told, five = Told(), layouts("sky", "sea", "hill", "lake", "snow")
    with pytest.raises(ServerUnavailableError, match="no server is ready; 3 of 5 layouts are missing, named above"):
        filled(SampleSet(tmp_path), five, FakeRunner(ends_after=1), told)
    assert told.lines == [f"not generated: l{n} (l{n})" for n in (2, 3, 4)]
    again = FakeRunner()
    assert len(filled(SampleSet(tmp_path, ("image",)), five, again)) == 3


def test_names_of_masks_are_safe_and_bounded(tmp_path: Path) -> None:
    objects = [{"label": "sky", "box": [0, 0, 1, 1], "id": name} for name in ("a/b: ü", "é" * 200)]
    layout = Layout.parse({"objects": objects}, name="view")
    names = ["view.mask-00-a_b_ü.png", f"view.mask-01-{'é' * 50}.png"]
    assert filled(SampleSet(tmp_path, ("masks",)), [layout], FakeRunner()) == names


def test_a_name_that_no_file_can_have_is_refused_before_anything_is_generated() -> None:
    with pytest.raises(LayoutError, match="too long for a file's name; rename the layout"):
        SampleSet(Path()).check([replace(layouts("sky")[0], name="n" * 250)])


def test_styles_are_the_seeds_that_follow() -> None:
    (sky,) = layouts("sky")
    assert [(style.name, style.seed) for style in styles(sky, 2, 40)] == [("l0.seed40", 40), ("l0.seed41", 41)]
    assert styles(sky, 1) == [sky]


@given(
    st.sampled_from([("L", 1), ("RGB", 3), ("P", 1)]), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1)
)
@settings(max_examples=30, deadline=None)
def test_pngs_are_what_pillow_reads(mode: tuple[str, int], width: int, height: int, seed: int) -> None:
    name, channels = mode
    pixels = (
        np.random.default_rng(seed)
        .integers(0, 256, (height, width, channels), np.uint8)
        .squeeze(2 if channels == 1 else ())
    )
    picture = Image.fromarray(pixels, "RGB" if channels == 3 else "L")
    if name == "P":
        picture = Image.fromarray(pixels, "P")
        picture.putpalette(bytes(range(256)) * 3)
    read = Image.open(io.BytesIO(png(picture, {"seed": seed})))
    read.load()
    assert (read.mode, read.size) == (picture.mode, picture.size)
    np.testing.assert_array_equal(np.asarray(read.convert("RGB")), np.asarray(picture.convert("RGB")))


def test_a_picture_knows_its_layout_and_model(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    cli("generate", EXAMPLES[0], "--model", tiny_model, "--out", tmp_path, check=True)
    provenance = provenance_of(tmp_path / f"{EXAMPLES[0].stem}.png")
    assert provenance is not None
    assert Layout.parse(provenance["layout"]).objects == Layout.load(EXAMPLES[0]).objects
    assert provenance["model"]["variant"] == "v2-128"
    assert provenance_of(tmp_path / "none.png") is None


def test_pictures_kinds_are_those_of_the_command(cli: Cli, tiny_model: Path) -> None:
    assert ", ".join(PICTURES) in " ".join(cli("generate", "--help").stdout.split())
    done = cli("generate", EXAMPLES[0], "--model", tiny_model, "--only", "image,mask")
    assert done.returncode == 2
    assert "there is no 'mask'; choose from image,object_map" in done.stderr
