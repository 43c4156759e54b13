"""The post-hoc integration (section 3.4): GauGAN renders the masks that a LostGAN inferred from layouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from lostgan_evaluate.gaugan.label_maps import VOCABULARY, LabelMap, label_map, semantics
from lostgan_evaluate.gaugan.network import GauGAN, load_gaugan
from lostgan_evaluate.metrics.object_maps import object_map_of
from lostgan_evaluate.sheets import Row, write_sheet
from lostgan_evaluate.subject import Sample
from lostgan_serve.contract import Array
from lostgan_serve.errors import EvaluationError, InputError
from lostgan_serve.figures import Tile
from lostgan_serve.files import reading, sweep, writable, write_file
from lostgan_serve.layout import Layout
from lostgan_serve.model_folder import sha256
from lostgan_serve.png import png, provenance_of
from lostgan_serve.progress import SILENT, Progress
from lostgan_serve.render import layout_picture
from lostgan_train.networks.runner import inference_device

IMAGES_FOLDER, SPADE_FOLDER, SHEET_FILE = "images", "spade", "gaugan.png"
SIDE_PX = 256
"""Side of GauGAN's images: that which the released weights were trained at."""

_OBJECTS = ".objects.png"
_SHEET_ROWS = 8


@dataclass(frozen=True)
class MaskedSample:
    """A sample with an object map. provenance: of both files, see `png.provenance_of`."""

    name: str
    sample: Sample
    layout: Layout
    provenance: dict[str, Any]

    def label_map(self) -> LabelMap:
        """Raises InputError for a file that cannot be read, VocabularyError for an unknown label."""
        return label_map(object_map_of(self.sample), [item.label for item in self.layout.objects])


def generate_from_masks(samples: Path, weights: Path, out: Path, progress: Progress = SILENT) -> int:
    """Generate GauGAN's image of each object map in a SampleSet, or those of them that are missing.

    Writes `out`/images/<name>.png, 256 px; `out`/spade, a data set that GauGAN's own code reads (--dataset_mode coco),
    with folders val_label, val_inst and val_img; and `out`/gaugan.png, a sheet of the first samples in the columns of
    figure 14. Images carry the sample's provenance and the weights' sha256. Returns the count of samples.

    Raises EvaluationError for samples of another vocabulary than COCO-Stuff or without provenance, InputError,
    CheckpointError for weights that do not fit, and OutputError.
    """
    found = masked_samples(samples)
    network = load_gaugan(weights).to(inference_device())
    facts = {"gaugan": {"weights_sha256": sha256(weights)}}
    with writable(out), progress.count("generating", len(found)) as advance:
        for folder in (out / IMAGES_FOLDER, *(out / SPADE_FOLDER / f"val_{kind}" for kind in ("label", "inst", "img"))):
            sweep(folder)
        for done, one in enumerate(found, 1):
            _write(one, network, one.provenance | facts, out)
            advance(done, "")
        _write_sheet(found[:_SHEET_ROWS], out)
    return len(found)


def masked_samples(folder: Path) -> list[MaskedSample]:
    """The samples of a SampleSet that have object maps, in the order of their names.

    Raises InputError where there are none, EvaluationError where their labels are not COCO-Stuff's or not known.
    """
    with reading(folder):
        files = sorted(path for path in folder.glob(f"*{_OBJECTS}") if not path.name.startswith("."))
    if not files:
        raise InputError(
            f"{folder}: holds no object maps (*{_OBJECTS}); give a folder that `generate` wrote, or the folder "
            "`samples` of an evaluation"
        )
    return [_masked_sample(file) for file in files]


def _masked_sample(objects: Path) -> MaskedSample:
    name = objects.name.removesuffix(_OBJECTS)
    image = objects.with_name(f"{name}.png")
    provenance = provenance_of(image)
    if provenance is None or provenance != provenance_of(objects):
        raise EvaluationError(
            f"{image}: is not there, has no provenance, or not that of {objects.name}; generate the two files again"
        )
    vocabulary = provenance["model"]["vocabulary"].split(" ")[0]
    if vocabulary != VOCABULARY:
        raise EvaluationError(
            f"{image}: its labels are those of {vocabulary}, and GauGAN's weights know {VOCABULARY}'s alone; give "
            f"samples of a model of {VOCABULARY}"
        )
    layout = Layout.parse(provenance["layout"], name, str(image))
    return MaskedSample(name, Sample(image, objects=objects), layout, provenance)


def _write(one: MaskedSample, network: GauGAN, provenance: dict[str, Any], out: Path) -> None:
    """Write what is missing of a sample's files. Raises InputError, VocabularyError and OutputError."""
    file, spade = f"{one.name}.png", out / SPADE_FOLDER
    pictures: dict[Path, Callable[[LabelMap], Array]] = {
        spade / "val_label" / file: lambda pixels: pixels.labels,
        spade / "val_inst" / file: lambda pixels: pixels.instances,
        out / IMAGES_FOLDER / file: lambda pixels: generate(network, pixels),
    }
    if missing := [path for path in pictures if provenance_of(path) != provenance]:
        pixels = one.label_map()
        for path in missing:
            write_file(path, png(Image.fromarray(pictures[path](pixels)), provenance))
    paired = spade / "val_img" / file
    if provenance_of(paired) != one.provenance:
        write_file(paired, one.sample.file.read_bytes())


@torch.inference_mode()
def generate(network: GauGAN, pixels: LabelMap) -> Array:
    """GauGAN's image of a label map: [256, 256, 3] uint8 RGB. Levels are cut off and not rounded, as its own code does
    where it writes images."""
    device = network.conv_img.weight.device
    image = network(semantics(pixels, SIDE_PX, network.semantics)[None].to(device))[0]
    levels: Array = ((image.cpu().permute(1, 2, 0) + 1) / 2 * 255).clamp(0, 255).byte().numpy()
    return levels


def _write_sheet(shown: Sequence[MaskedSample], out: Path) -> None:
    rows = []
    for one in shown:
        assert one.sample.objects is not None
        with Image.open(one.sample.objects) as picture:
            masks = picture.crop((0, 0, picture.height, picture.height)).convert("RGB")
        images = [Image.open(path) for path in (out / IMAGES_FOLDER / f"{one.name}.png", one.sample.file)]
        pictures = (layout_picture(one.layout, SIDE_PX), masks, *images)
        words = ("layout", "masks inferred", "GauGAN, of the masks", "LostGAN")
        rows.append(Row(one.name, [Tile(*pair) for pair in zip(pictures, words, strict=True)]))
    write_sheet(out / SHEET_FILE, rows, SIDE_PX)
