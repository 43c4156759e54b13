"""Pictures of a training run: samples on fixed layouts, and loss curves."""

from __future__ import annotations

import io
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lostgan_serve.contract import INPUT_NAMES, Z_DIM
from lostgan_serve.figures import contact_sheet
from lostgan_serve.layout import Layout, LayoutObject
from lostgan_serve.pipeline import Result
from lostgan_serve.png import png
from lostgan_train.data import LayoutDataset
from lostgan_train.log import read_log
from lostgan_train.networks.generator import Generator, to_pixels
from lostgan_train.networks.layers import resize
from lostgan_train.networks.masks import object_map

_COLUMNS = 8
_SMOOTHING = 50  # logged values that a point of a curve is the mean of, a quarter of all at most
_PANELS = 4


@torch.no_grad()
def sample_sheet(generator: Generator, dataset: LayoutDataset) -> bytes:
    """PNG: for a dataset's first layouts, each with the real image, the generated one, and its objects."""
    results, reals = [], []
    for index in range(min(_COLUMNS, len(dataset))):
        item = dataset[index]
        item["z_obj"], item["z_img"] = style_codes(index, len(item["labels"]))
        results.append(_generate(generator, {name: item[name] for name in INPUT_NAMES}, dataset, index))
        reals.append(Image.fromarray(to_pixels(item["image"][None])[0].numpy()))
    return png(contact_sheet(results, reals=reals))


def style_codes(seed: int, slots: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Style codes of a sample, standard normal: of its objects [slots, 128] and of the image [128]."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(slots, Z_DIM, generator=rng), torch.randn(Z_DIM, generator=rng)


def _generate(generator: Generator, item: dict[str, torch.Tensor], dataset: LayoutDataset, index: int) -> Result:
    device = next(generator.parameters()).device
    output = generator(*(item[name].unsqueeze(0).to(device) for name in INPUT_NAMES))
    owners = object_map(resize(output.mask_final.float(), generator.config.resolution))[0].cpu().numpy()
    names = [dataset.source.vocabulary.labels[label] for label in item["labels"].tolist()]
    used = [slot for slot, box in enumerate(item["boxes"].tolist()) if box[0] >= 0]
    objects = tuple(LayoutObject(names[k], tuple(item["boxes"][k].tolist()), names[k]) for k in used)
    image = to_pixels(output.image.float())[0].cpu().numpy()
    return Result(Layout(objects, name=str(index)), tuple(names[k] for k in used), image, owners)


def curves(log: Path) -> bytes:
    """PNG of the losses and figures in a run's log; losses are smoothed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    series: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in read_log(log):
        for name in row.keys() - {"step", "skipped"}:
            series[name].append((row["step"], row[name]))
    rows = max(1, -(-len(series) // _PANELS))
    figure, axes = pyplot.subplots(rows, _PANELS, figsize=(4 * _PANELS, 3 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat[len(series) :]:
        axis.set_axis_off()
    for axis, name in zip(axes.flat, sorted(series), strict=False):
        steps, values = np.array(series[name]).T
        window = max(1, min(_SMOOTHING, len(values) // 4))
        axis.plot(steps[window - 1 :], np.convolve(values, np.ones(window) / window, "valid"), linewidth=1)
        axis.set(title=name, xlabel="step")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    pyplot.close(figure)
    return buffer.getvalue()
