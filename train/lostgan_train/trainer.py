"""Adversarial training of a LostGAN: the step of section 2.2.5, and checkpoints from which it goes on exactly.

Everything random in a step - the images, their flips, the style codes, dropout - is a function of the seed and the
step's number. So a checkpoint needs no random state, and a run that was interrupted is the run that was not.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from lostgan_serve.contract import Z_DIM
from lostgan_serve.errors import CheckpointError, TrainingError
from lostgan_serve.files import write_file, writing
from lostgan_serve.manifest import Precision
from lostgan_train import distributed
from lostgan_train.data import Batch, LayoutDataset, Source, batches_of
from lostgan_train.losses import PerceptualLoss, adversarial_loss, discriminator_loss
from lostgan_train.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from lostgan_train.networks.discriminator import Discriminator
from lostgan_train.networks.generator import Generator, GeneratorConfig, Norm, initialize
from lostgan_train.networks.importer import mask_classes
from lostgan_train.progress import progress
from lostgan_train.sheets import curves, sample_sheet
from lostgan_train.signals import stop_on_signals

Component = Literal["layout-to-mask", "mask-refinement", "image-head", "object-head"]

MOST_SKIPS = 20
"""Steps in a row with losses or gradients that are not finite, after which a run stops."""

LOG_FILE, BOARD_FOLDER = "losses.jsonl", "tensorboard"
_STATE_FILES = "state-*.pt"
_FIXED = ("variant", "ch", "discriminator_ch", "norm", "without", "batch", "seed")
"""What of a run's config may not differ when it is resumed."""


@dataclass(frozen=True)
class TrainConfig:
    """A run. The defaults are the paper's (section 2.2.7), but for `steps`.

    batch: images per step, over all processes. discriminator_ch: its width multiplier. l1_weight, perceptual_weight:
    of the last two terms of equation 11. accumulate: parts that a process computes its share of a batch in. ema_decay:
    of the averaged generator, which is the one that is released. norm: see
    `GeneratorConfig`. without: the components that are switched off, as in table 7.
    """

    variant: str
    steps: int
    ch: int = 64
    discriminator_ch: int = 64
    norm: Norm = "isla"
    without: tuple[Component, ...] = ()
    batch: int = 128
    learning_rate: float = 1e-4
    image_weight: float = 0.1
    object_weight: float = 1.0
    l1_weight: float = 1.0
    perceptual_weight: float = 1.0
    precision: Precision = "fp32"
    accumulate: int = 1
    ema_decay: float = 0.999
    seed: int = 0
    checkpoint_every: int = 1000
    keep: int = 2
    sample_every: int = 500


class Trainer:
    """One process of a run.

    source: the data. perceptual: VGG19's weights; None leaves the term out. workers: processes that load images.
    echo: where progress is told. Raises TrainingError where the batch does not divide among the processes.
    """

    def __init__(
        self,
        config: TrainConfig,
        source: Source,
        out: Path,
        perceptual: Path | None = None,
        workers: int = 1,
        echo: Callable[[str], None] = print,
    ) -> None:
        self.config, self.source, self.out, self.workers, self.echo = config, source, out, workers, echo
        self.rank, self.world = distributed.start()
        if config.batch % (self.world * config.accumulate):
            raise TrainingError(
                f"--batch {config.batch} does not divide into {self.world} processes x {config.accumulate} parts; "
                f"choose a multiple of {self.world * config.accumulate}"
            )
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        labels = len(source.vocabulary)
        generator = Generator(
            GeneratorConfig(
                config.variant,
                labels,
                config.ch,
                mask_classes(source.vocabulary),
                config.norm,
                layout_to_mask="layout-to-mask" not in config.without,
                mask_refinement="mask-refinement" not in config.without,
            )
        )
        # a head of weight 0 gets no gradient and gives none
        self.image_weight = 0.0 if "image-head" in config.without else config.image_weight
        self.object_weight = 0.0 if "object-head" in config.without else config.object_weight
        discriminator = Discriminator(generator.config.resolution, labels, config.discriminator_ch)
        initialize(generator, config.seed)
        initialize(discriminator, config.seed + 1)
        for network in (generator, discriminator):
            distributed.synchronize_batch_norm(network)
        self.generator = generator.to(self.device).to(memory_format=torch.channels_last).train()
        self.discriminator = discriminator.to(self.device).to(memory_format=torch.channels_last).train()
        self.ema = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.perceptual = PerceptualLoss(perceptual).to(self.device) if perceptual else None
        rate, betas = config.learning_rate, (0.0, 0.999)
        self.generator_optimizer = torch.optim.Adam(self.generator.parameters(), rate, betas)
        self.discriminator_optimizer = torch.optim.Adam(self.discriminator.parameters(), rate, betas)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.dataset = LayoutDataset(source, generator.config.resolution, seed=config.seed)
        self.done = 0
        self.skipped = self.skipped_in_a_row = 0
        self._stopping = False

    def run(self) -> None:
        """Train up to `config.steps`, or until SIGTERM or SIGINT; either way the state is saved. Raises TrainingError
        where losses stay non-finite, and OutputError."""
        with writing(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        config = self.config
        with stop_on_signals(self._stop), self._records() as record:
            for batch in self.batches():
                record(self.step(batch))
                if self.done % config.sample_every == 0:
                    self._write_samples()
                if self.done % config.checkpoint_every == 0 or self.done == config.steps or self._stopping:
                    self.save()
                if self._stopping:
                    break
        if self.done < config.steps:
            self.echo(f"stopped after step {self.done}; go on with --resume")
        elif self.rank == 0:
            write_file(self.out / "curves.png", curves(self.out / LOG_FILE))

    def start_from(self, path: Path) -> None:
        """Begin with the weights of a generator's checkpoint. Of another variant, width or ablation, those layers are
        taken that both have, by name and shape. Raises CheckpointError, for another vocabulary too."""
        theirs = load_checkpoint(path)
        if theirs.vocabulary.labels != self.source.vocabulary.labels:
            raise CheckpointError(
                f"{path}: paints {theirs.vocabulary.name}, the data are {self.source.vocabulary.name}; start without it"
            )
        own = self.generator.state_dict()
        weights = theirs.generator.state_dict()
        fitting = {name: weights[name] for name in own if name in weights and weights[name].shape == own[name].shape}
        for network in (self.generator, self.ema):
            network.load_state_dict(own | fitting)
        self.echo(f"{path}: {len(fitting)} of {len(own)} tensors of the generator start from it")

    def step(self, batch: Batch) -> dict[str, float]:
        """One update of each network. A step whose losses or gradients are not finite changes neither of them."""
        torch.manual_seed((self.config.seed * 1_000_003 + self.done) * 4096 + self.rank)  # dropout
        parts = self._parts(batch)
        buffers = [buffer.clone() for network in (self.generator, self.discriminator) for buffer in network.buffers()]
        losses: dict[str, float] = {}
        fake = self._update_discriminator(parts, losses)
        if fake is None or not self._update_generator(parts, fake, losses):
            self._skip(buffers)
        else:
            self.skipped_in_a_row = 0
            self._average()
        self.done += 1
        return losses

    def _update_discriminator(self, parts: list[Batch], losses: dict[str, float]) -> Tensor | None:
        """Equation 14. Returns the images of the last part, to be judged again, or None where it must be skipped."""
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        reuse = len(parts) == 1
        total = torch.zeros((), device=self.device)
        for part in parts:
            with self._autocast(), nullcontext() if reuse else torch.no_grad():
                fake = self._paint(part)
            with self._autocast():
                real = self.discriminator(part["image"], part["labels"], part["boxes"])
                judged = self.discriminator(fake.detach(), part["labels"], part["boxes"])
                loss = discriminator_loss(real, judged, part["weights"], self.image_weight, self.object_weight)
                loss = loss / len(parts)
            self.scaler.scale(loss).backward()
            total += loss.detach()
        losses["discriminator"] = float(distributed.mean(total))
        return fake if self._apply(self.discriminator, self.discriminator_optimizer, losses["discriminator"]) else None

    def _update_generator(self, parts: list[Batch], fake: Tensor, losses: dict[str, float]) -> bool:
        """Equation 11. Returns whether it was finite."""
        self.generator_optimizer.zero_grad(set_to_none=True)
        self.discriminator.requires_grad_(False)
        totals: dict[str, Tensor] = {}
        for part in parts:
            with self._autocast():
                image = fake if len(parts) == 1 else self._paint(part)
                judged = self.discriminator(image, part["labels"], part["boxes"])
                terms = {
                    "adversarial": adversarial_loss(judged, part["weights"], self.image_weight, self.object_weight),
                    "l1": self.config.l1_weight * F.l1_loss(image, part["image"]),
                }
                if self.perceptual is not None:
                    terms["perceptual"] = self.config.perceptual_weight * self.perceptual(image, part["image"])
            self.scaler.scale(torch.stack(list(terms.values())).sum() / len(parts)).backward()
            for name, term in terms.items():
                totals[name] = totals.get(name, 0) + term.detach() / len(parts)
        self.discriminator.requires_grad_(True)
        losses |= {name: float(distributed.mean(total)) for name, total in totals.items()}
        return self._apply(self.generator, self.generator_optimizer, sum(losses.values()))

    def _apply(self, network: nn.Module, optimizer: torch.optim.Optimizer, loss: float) -> bool:
        """Let an optimizer step if the loss and the gradients of all processes are finite; whether it did."""
        self.scaler.unscale_(optimizer)
        distributed.average_gradients(network.parameters())
        norm = torch.nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
        finite = math.isfinite(loss) and bool(torch.isfinite(norm))
        if finite:
            optimizer.step()
        if self.scaler.is_enabled():
            self.scaler.update()
        return finite

    def _skip(self, buffers: list[Tensor]) -> None:
        current = [buffer for network in (self.generator, self.discriminator) for buffer in network.buffers()]
        for buffer, before in zip(current, buffers, strict=True):
            buffer.copy_(before)
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= MOST_SKIPS:
            raise TrainingError(
                f"{self.out}: {MOST_SKIPS} steps in a row were not finite; the last good state is kept: go on from it "
                "with --resume and a lower --learning-rate, or --precision fp32"
            )

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.done) / (10 + self.done))
        for ours, theirs in zip(self.ema.parameters(), self.generator.parameters(), strict=True):
            ours.lerp_(theirs.detach(), 1 - decay)
        for (name, mine), others in zip(self.ema.named_buffers(), self.generator.buffers(), strict=True):
            if name.endswith(("running_mean", "running_var")):
                mine.lerp_(others, 1 - decay)
            else:
                mine.copy_(others)

    def _paint(self, part: Batch) -> Tensor:
        image: Tensor = self.generator(part["labels"], part["boxes"], part["z_obj"], part["z_img"]).image
        return image.float().contiguous(memory_format=torch.channels_last)

    def _autocast(self) -> torch.autocast:
        dtype = torch.float16 if self.config.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.config.precision != "fp32")

    def _parts(self, batch: Batch) -> list[Batch]:
        """This process's share of a batch, with style codes, on the device, in `accumulate` parts."""
        share = self.config.batch // self.world
        rng = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.done)
        slots = batch["labels"].shape[1]
        codes = {
            "z_obj": torch.randn(self.config.batch, slots, Z_DIM, generator=rng),
            "z_img": torch.randn(self.config.batch, Z_DIM, generator=rng),
        }
        whole = batch | {name: code[self.rank * share : (self.rank + 1) * share] for name, code in codes.items()}
        whole = {name: tensor.to(self.device, non_blocking=True) for name, tensor in whole.items()}
        whole["image"] = whole["image"].contiguous(memory_format=torch.channels_last)
        chunks = {name: tensor.chunk(self.config.accumulate) for name, tensor in whole.items()}
        return [{name: chunk[k] for name, chunk in chunks.items()} for k in range(self.config.accumulate)]

    def batches(self) -> Iterator[Batch]:
        """This process's batches from step `done` on, epoch by epoch; an epoch's last, incomplete batch is left out."""
        if len(self.dataset) < self.config.batch:
            raise TrainingError(f"--batch {self.config.batch} is more than the {len(self.dataset)} images; lower it")
        return batches_of(
            self.dataset,
            self.config.batch,
            self.done,
            self.config.steps,
            self.config.seed,
            self.workers,
            self.rank,
            self.world,
        )

    @contextmanager
    def _records(self) -> Iterator[Callable[[dict[str, float]], None]]:
        """Within the block: what is told of a step's losses, to the log, to TensorBoard and to whoever watches."""
        if self.rank != 0:
            yield lambda _: None
            return
        told = progress("training", self.done, self.config.steps, self.config.batch, self.echo)
        with SummaryWriter(self.out / BOARD_FOLDER, purge_step=self.done + 1) as board, told as report:

            def record(losses: dict[str, float]) -> None:
                line = {"step": self.done, **{k: round(v, 6) for k, v in losses.items()}, "skipped": self.skipped}
                with writing(self.out / LOG_FILE), (self.out / LOG_FILE).open("a") as file:
                    file.write(json.dumps(line) + "\n")
                for name, value in losses.items():
                    board.add_scalar(name, value, self.done)
                report(self.done, losses | ({"skipped": self.skipped} if self.skipped else {}))

            yield record

    def _write_samples(self) -> None:
        if self.rank == 0:
            write_file(self.out / "samples" / f"step-{self.done:07}.png", sample_sheet(self.ema, self.dataset))

    def save(self) -> None:
        """Write the whole state, and the averaged generator for release, each file whole or not at all."""
        if self.rank != 0:
            return
        buffer = BytesIO()
        about = {"config": asdict(self.config), "vocabulary": self.source.vocabulary.labels, "data": self._data()}
        torch.save({**about, "step": self.done, "skipped": self.skipped, **self._states()}, buffer)
        write_file(self.out / f"state-{self.done:07}.pt", buffer.getvalue())
        for old in sorted(self.out.glob(_STATE_FILES))[: -self.config.keep]:
            old.unlink()
        save_checkpoint(self.out / "generator.safetensors", Checkpoint(self.ema, self.source.vocabulary, "trained"))

    def resume(self) -> None:
        """Go on from the newest state in the folder that can be read. Raises CheckpointError where there is none, or it
        is of another run."""
        files = sorted(self.out.glob(_STATE_FILES), reverse=True)
        for file in files:
            try:
                state = torch.load(file, map_location=self.device, weights_only=True)
            except Exception as error:  # torch raises many kinds for a damaged file
                self.echo(f"note: {file} cannot be read ({type(error).__name__}); trying the one before")
                continue
            self._restore(file, state)
            return
        raise CheckpointError(f"{self.out}: no state to resume from; start the run without --resume")

    def _restore(self, file: Path, state: dict[str, Any]) -> None:
        ours = asdict(self.config)
        for name in _FIXED:
            if state["config"][name] != ours[name]:
                raise CheckpointError(
                    f"{file}: made with {name} {state['config'][name]}, not {ours[name]}; "
                    "resume with the options of that run"
                )
        if state["vocabulary"] != self.source.vocabulary.labels:
            raise CheckpointError(f"{file}: made with data of other labels; resume with the --data of that run")
        if state["data"] != self._data():
            self.echo(f"note: {file} was made with {state['data']['images']} images, these are {len(self.dataset)}")
        for name, part in self._parts_of_state().items():
            part.load_state_dict(state[name])
        for optimizer in (self.generator_optimizer, self.discriminator_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = self.config.learning_rate
        self.done, self.skipped = state["step"], state["skipped"]
        log = self.out / LOG_FILE
        if self.rank == 0 and log.is_file():  # what an interrupted run logged after its last checkpoint comes again
            lines = log.read_text().splitlines(keepends=True)
            write_file(log, "".join(lines[: self.done]).encode())

    def _data(self) -> dict[str, Any]:
        """What a state says of the data that it was made with."""
        return {"images": len(self.dataset), "summary": self.source.summary.lines()}

    def _parts_of_state(self) -> dict[str, Any]:
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "ema": self.ema,
            "generator_optimizer": self.generator_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
            "scaler": self.scaler,
        }

    def _states(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._parts_of_state().items()}

    def _stop(self) -> None:
        self._stopping = True
