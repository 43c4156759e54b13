"""Pictures of a training run: samples on fixed layouts, and loss curves."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lostgan_serve.contract import INPUT_NAMES, Z_DIM
from lostgan_serve.images import contact_sheet, encode
from lostgan_serve.layout import Layout, LayoutObject
from lostgan_serve.pipeline import Result
from lostgan_train.data import LayoutDataset
from lostgan_train.networks.generator import Generator, to_pixels
from lostgan_train.networks.layers import resize
from lostgan_train.networks.masks import object_map

_COLUMNS = 8
_SMOOTHING = 50  # steps that a point of a curve is the mean of


@torch.no_grad()
def sample_sheet(generator: Generator, dataset: LayoutDataset) -> bytes:
    """PNG: for a dataset's first layouts, each with the real image, what the generator paints, and its objects."""
    results, reals = [], []
    for index in range(min(_COLUMNS, len(dataset))):
        item = dataset[index]
        rng = torch.Generator().manual_seed(index)
        item |= {
            "z_obj": torch.randn(len(item["labels"]), Z_DIM, generator=rng),
            "z_img": torch.randn(Z_DIM, generator=rng),
        }
        results.append(_paint(generator, {name: item[name] for name in INPUT_NAMES}, dataset, index))
        reals.append(Image.fromarray(to_pixels(item["image"][None])[0].numpy()))
    return encode(contact_sheet(results, reals=reals))


def _paint(generator: Generator, item: dict[str, torch.Tensor], dataset: LayoutDataset, index: int) -> Result:
    device = next(generator.parameters()).device
    output = generator(*(item[name].unsqueeze(0).to(device) for name in INPUT_NAMES))
    owners = object_map(resize(output.mask_final.float(), generator.config.resolution))[0].cpu().numpy()
    names = [dataset.source.vocabulary.labels[label] for label in item["labels"].tolist()]
    used = [slot for slot, box in enumerate(item["boxes"].tolist()) if box[0] >= 0]
    objects = tuple(LayoutObject(names[k], tuple(item["boxes"][k].tolist()), names[k]) for k in used)
    image = to_pixels(output.image.float())[0].cpu().numpy()
    return Result(Layout(objects, name=str(index)), tuple(names[k] for k in used), image, owners)


def curves(log: Path) -> bytes:
    """PNG of the losses in a run's log, smoothed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    series: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for line in log.read_text().splitlines():
        row = json.loads(line)
        for name in row.keys() - {"step", "skipped"}:
            series[name].append((row["step"], row[name]))
    figure, axes = pyplot.subplots(1, len(series), figsize=(4 * len(series), 3), layout="constrained", squeeze=False)
    for axis, name in zip(axes[0], sorted(series), strict=True):
        steps, values = np.array(series[name]).T
        window = min(_SMOOTHING, len(values))
        axis.plot(steps[window - 1 :], np.convolve(values, np.ones(window) / window, "valid"), linewidth=1)
        axis.set(title=name, xlabel="step")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    pyplot.close(figure)
    return buffer.getvalue()
