"""Runs of training: data, GAN, loop and samples together; what the commands `train` and `semi` do."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from lostgan_serve.errors import CheckpointError, TrainingError
from lostgan_serve.files import write_file
from lostgan_serve.progress import SILENT, Progress
from lostgan_train import distributed
from lostgan_train.data import Batches, LayoutDataset, Sampling, Source, batches_of, open_data
from lostgan_train.data.masks import Owners, read_owners
from lostgan_train.diagnostics import Diagnostics
from lostgan_train.gan import GAN
from lostgan_train.loop import LOG_FILE, Loop, Rhythm
from lostgan_train.networks.checkpoint import (
    Checkpoint,
    DiscriminatorCheckpoint,
    save_checkpoint,
    save_discriminator,
)
from lostgan_train.networks.formulation import OURS, Formulation
from lostgan_train.run_file import RunFile, check_vacant, read_run
from lostgan_train.semi_supervised import complete, parts
from lostgan_train.settings import SemiSettings, TrainSettings
from lostgan_train.sheets import curves, sample_sheet
from lostgan_train.signals import stop_on_signals
from lostgan_train.states import newest_step

CLASSIFIER_FOLDER = "classifier"

_HINT = "go on from it with --resume and a lower --learning-rate, or --precision fp32"


def train(settings: TrainSettings, out: Path, *, resume: bool = False, progress: Progress = SILENT) -> None:
    """Train a LostGAN up to `settings.steps`, or until SIGTERM or SIGINT; either way its state is saved.

    out: the folder of the run, which keeps its settings. resume: go on with the run there. Raises InputError, DataError
    and TrainingError for a run that cannot start, such as one in a folder that holds another, CheckpointError for one
    that cannot go on, DivergedError where steps stay not finite, and OutputError.
    """
    if not resume:
        check_vacant(out)
    run = TrainingRun(settings, open_source(settings, progress), out, progress)
    run.begin()
    _write_settings(settings, out, resume, run.loop.done)
    run.run()


def try_step(
    settings: TrainSettings, out: Path, *, resume: bool = False, progress: Progress = SILENT
) -> dict[str, float]:
    """Read the data and the weights or the state to start from, make one step and write nothing.

    Returns its losses by name. Parameters and errors are those of `train`.
    """
    if not resume:
        check_vacant(out)
    run = TrainingRun(settings, open_source(settings, progress), out, progress)
    run.begin()
    with closing(run.batches(0)) as batches:
        return run.loop.step(next(batches))


def train_semi(settings: SemiSettings, out: Path, *, resume: bool = False, progress: Progress = SILENT) -> None:
    """Train a detector on the annotated part of a data set, label the rest by it, then train a LostGAN on both.

    Parameters and errors are those of `train`.
    """
    if not resume:
        check_vacant(out)
    source = open_source(settings, progress)
    # made for their checks: what they would refuse is refused before anything is written, and the detector's hours
    TrainingRun(settings, source, out, progress)
    parts(settings, source)
    _write_settings(settings, out, resume, newest_step(out))
    completed = complete(settings, source, out, progress)
    if completed is not None:
        run = TrainingRun(settings, completed, out, progress)
        run.begin()
        run.run()


def open_source(settings: TrainSettings, progress: Progress = SILENT) -> Source:
    """Read the data set to train on, and tell its summary once, however many processes torchrun started. Raises
    InputError, DataError."""
    source = open_data(
        settings.data,
        strict=settings.strict,
        images=settings.images,
        splits=settings.splits,
        stuff_only=settings.stuff_only,
    )
    progress = distributed.start().telling(progress)
    for line in source.summary.lines():
        progress.note(line)
    return source


def _emulated(precision: str, device: torch.device) -> bool:
    """Whether a type of 16 bits is computed on an x86 CPU without AVX-512."""
    return precision != "fp32" and device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"


def _write_settings(settings: TrainSettings, out: Path, resume: bool, done: int) -> None:
    """Write run.json, or the changes to it; in the first process. Raises OutputError."""
    if not distributed.start().first:
        return
    if resume:
        read_run(type(settings), out).record(settings, done)
    else:
        RunFile(out, settings).write()


class TrainingRun:
    """One process of a run: a GAN, its data and its loop.

    source: the data. out: the folder of the run. formulation: the parts that both networks are built
    of. Raises what `GAN` raises.
    """

    def __init__(
        self,
        settings: TrainSettings,
        source: Source,
        out: Path,
        progress: Progress = SILENT,
        formulation: Formulation = OURS,
    ) -> None:
        self.settings, self.source, self.out = settings, source, out
        processes = distributed.start()
        self.progress = processes.telling(progress)
        self.gan = GAN(settings, source.vocabulary, processes, formulation)
        side = self.gan.generator.config.resolution
        self.shown = LayoutDataset(source, side, flip=False)
        self.sampling = Sampling(
            settings.batch, settings.seed, settings.discriminator_updates, settings.balance,
            processes.rank, processes.count,
        )  # fmt: skip
        if len(self.shown) < self.sampling.images:
            raise TrainingError(
                f"--batch {settings.batch}: a step takes {self.sampling.images} images, more than the "
                f"{len(self.shown)} of the data; lower it"
            )
        self.dataset = LayoutDataset(source, side, seed=settings.seed, owners=self._owners())
        rhythm = Rhythm(settings.steps, settings.checkpoint_every, settings.keep, settings.sample_every)
        about = {"vocabulary": source.vocabulary.labels, "images": len(self.dataset)}
        self.loop = Loop(
            "training", self.gan, out, rhythm,
            processes=processes, seed=settings.seed, images=self.sampling.images, about=about,
            hint=_HINT, progress=progress,
        )  # fmt: skip
        self.diagnostics: Diagnostics | None = None

    def run(self) -> None:
        """Train up to `settings.steps`, or until SIGTERM or SIGINT; either way the state is saved. Raises DivergedError
        where steps stay not finite, and OutputError."""
        # not before: a loop that refers to its run would keep a GAN alive that was only made for its checks
        self.loop.on_save, self.loop.on_sample = self._release, self._write_samples
        with stop_on_signals(self.loop.stop):
            ready = self._prepare_samples()
        if not ready:
            self.progress.note(f"stopped while preparing; go on with: --resume --out {self.out}")
        elif not self.loop.run(self.batches):
            self.progress.note(f"stopped after step {self.loop.done}; go on with: --resume --out {self.out}")
        elif self.loop.processes.first and (log := self.out / LOG_FILE).is_file():
            write_file(self.out / "curves.png", curves(log))

    def _owners(self) -> Owners | None:
        """The true owners of pixels, where a loss on masks ever counts. Raises DataError where the data have none."""
        if not self.settings.mask_weight.ever:
            return None
        self.progress.note("reading the true masks")
        side_px = self.gan.generator.config.mask_side
        return read_owners(self.source, self.settings.data, self.settings.images, side_px)

    def begin(self) -> None:
        """Go on from the newest state; without any, begin with the weights that the settings name. Raises
        CheckpointError where no state can be read, or it is of data with other labels."""
        if _emulated(self.settings.precision, self.gan.device):
            self.progress.note(
                f"note: this CPU has no AVX-512, and without it {self.settings.precision} is emulated: a step can take "
                "ten times as long as in fp32; better stop, and go on with --resume --precision fp32"
            )
        if not self.loop.resume(self._check):
            self.gan.start(self.progress)

    def batches(self, first: int) -> Batches:
        """This process's batches from step `first` on, epoch by epoch; an epoch's last, incomplete one is left out."""
        return batches_of(self.dataset, self.sampling, first, self.settings.steps, self.settings.workers)

    def _check(self, file: Path, about: Mapping[str, Any]) -> None:
        if about["vocabulary"] != self.source.vocabulary.labels:
            raise CheckpointError(f"{file}: made with data of other labels; resume with the --data of that run")
        if about["images"] != len(self.dataset):
            self.progress.note(f"note: {file} was made with {about['images']} images, these are {len(self.dataset)}")

    def _release(self) -> None:
        vocabulary = self.source.vocabulary
        judge = DiscriminatorCheckpoint(self.gan.discriminator, vocabulary)
        save_checkpoint(self.out / "generator.safetensors", Checkpoint(self.gan.ema, vocabulary, "trained"))
        save_discriminator(self.out / "discriminator.safetensors", judge)

    def _prepare_samples(self) -> bool:
        """Make what the samples need, in the first process, if any are to come. Whether no signal stopped it."""
        every, processes = self.settings.sample_every, self.loop.processes
        if processes.first and self.loop.done // every < self.settings.steps // every:
            folder = self.out / CLASSIFIER_FOLDER
            self.diagnostics = Diagnostics(self.shown, folder, self.settings.seed, processes, self.progress)
        unready = self.diagnostics is not None and not self.diagnostics.ready
        (stopped,) = processes.any(unready or self.loop.stopping)
        return not stopped

    def _write_samples(self, step: int) -> Mapping[str, float]:
        write_file(self.out / "samples" / f"step-{step:07}.png", sample_sheet(self.gan.ema, self.shown))
        assert self.diagnostics is not None
        figures = self.diagnostics(self.gan.ema)
        self.progress.note(f"samples of step {step} (real ones): {figures.beside(self.diagnostics.real)}")
        return figures.measured()
