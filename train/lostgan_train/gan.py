"""Adversarial training of a LostGAN: the step of section 2.2.5."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lostgan_serve.contract import Z_DIM
from lostgan_serve.errors import CheckpointError, TrainingError
from lostgan_serve.progress import Progress
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train import distributed
from lostgan_train.data import Batch
from lostgan_train.distributed import Processes
from lostgan_train.growing import can_grow, grown
from lostgan_train.loop import SEED_STRIDE, Stateful, update
from lostgan_train.losses import adversarial_loss, discriminator_loss, diversity_loss, mask_loss
from lostgan_train.networks.checkpoint import load_checkpoint, load_discriminator
from lostgan_train.networks.discriminator import Discriminator, DiscriminatorConfig
from lostgan_train.networks.formulation import OURS, Formulation
from lostgan_train.networks.generator import Generator, GeneratorConfig, GeneratorOutput, Norm
from lostgan_train.networks.importer import mask_classes
from lostgan_train.networks.layers import initialize
from lostgan_train.perceptual import FeatureDistance, perceptual_loss, shifted_alike, texture_loss
from lostgan_train.settings import LITE, NONE, TrainSettings

_BETAS = (0.0, 0.999)


class GAN:
    """Generator, discriminator, the averaged generator, and the updates of them; one process's share of each.

    settings: of the run. vocabulary: the data set's. formulation: the parts that both networks are built of. Raises
    TrainingError for settings that exclude each other, for a batch that does not divide into the processes' parts, or
    parts too small to normalize over, and CheckpointError for the perceptual loss's weights.
    """

    def __init__(
        self, settings: TrainSettings, vocabulary: Vocabulary, processes: Processes, formulation: Formulation = OURS
    ) -> None:
        self.settings, self.vocabulary = settings, vocabulary
        self.processes, self.device = processes, processes.device
        config = _generator_config(settings, vocabulary)
        _check(settings, config, processes.count)
        generator = Generator(config, formulation)
        width = settings.discriminator_ch or settings.ch
        discriminator = Discriminator(DiscriminatorConfig(config.resolution, len(vocabulary), width), formulation)
        initialize(generator, settings.seed)
        initialize(discriminator, settings.seed + 1)
        for network in (generator, discriminator):
            distributed.synchronize_batch_norm(network)
        self.generator = generator.to(self.device).to(memory_format=torch.channels_last).train()
        self.discriminator = discriminator.to(self.device).to(memory_format=torch.channels_last).train()
        self.ema = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.perceptual = perceptual_loss(settings.perceptual)
        if self.perceptual is not None:
            self.perceptual.to(self.device)
        self.generator_optimizer = torch.optim.Adam(self.generator.parameters(), settings.learning_rate, _BETAS)
        self.discriminator_optimizer = torch.optim.Adam(self.discriminator.parameters(), betas=_BETAS)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")

    @property
    def state(self) -> Mapping[str, Stateful]:
        """The parts that a step changes, by name."""
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "ema": self.ema,
            "generator_optimizer": self.generator_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
            **({"scaler": self.scaler} if self.scaler.is_enabled() else {}),
        }

    def step(self, batch: Batch, number: int) -> dict[str, float]:
        """Update the discriminator as often as the settings say, then the generator. Raises NotFiniteError.

        batch: this process's share of the images of all these updates.
        """
        self._set_rates(number)
        losses: dict[str, float] = {}
        *earlier, last = self._updates(batch, number)
        for parts in earlier:
            self._update_discriminator(parts, number, losses, judged_again=False)
        fake = self._update_discriminator(last, number, losses, judged_again=len(last) == 1)
        self._update_generator(last, fake, number, losses)
        self._average(number)
        return losses

    def start(self, progress: Progress) -> None:
        """Begin with the weights of `settings.init` and `settings.init_discriminator`. A generator of a lower
        resolution is grown. Of another network, those layers are taken that both have, by name and shape. Raises
        CheckpointError."""
        if (path := self.settings.init) is not None:
            theirs, ours = load_checkpoint(path), self.generator.config
            generator = theirs.generator
            if can_grow(generator.config, ours):
                generator = grown(generator, ours.variant, self.settings.seed)
                progress.note(f"{path}: grown from {theirs.generator.config.resolution} px to {ours.resolution}")
            self._take(path, generator, theirs.vocabulary, (self.generator, self.ema), progress)
        if (path := self.settings.init_discriminator) is not None:
            judge = load_discriminator(path)
            self._take(path, judge.discriminator, judge.vocabulary, (self.discriminator,), progress)

    def _take(
        self,
        path: Path,
        theirs: nn.Module,
        vocabulary: Vocabulary,
        ours: Sequence[nn.Module],
        progress: Progress,
    ) -> None:
        if vocabulary.labels != self.vocabulary.labels:
            raise CheckpointError(
                f"{path}: made for {vocabulary.name}, the data are {self.vocabulary.name}; start without it"
            )
        own, weights = ours[0].state_dict(), theirs.state_dict()
        fitting = {name: weights[name] for name in own if name in weights and weights[name].shape == own[name].shape}
        for network in ours:
            network.load_state_dict(own | fitting)
        progress.note(f"{path}: {len(fitting)} of {len(own)} tensors start from it")

    def _set_rates(self, number: int) -> None:
        settings = self.settings
        left = settings.steps - number
        share = min(1.0, left / settings.decay_steps) if settings.decay_steps else 1.0
        rates = (settings.learning_rate, settings.discriminator_learning_rate or settings.learning_rate)
        for optimizer, rate in zip((self.generator_optimizer, self.discriminator_optimizer), rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * share

    def _weights(self, number: int) -> tuple[float, float]:
        """The adversarial weights of images and of objects; a head of weight 0 gets no gradient and gives none."""
        settings = self.settings
        on_image = 0.0 if "image-head" in settings.without else settings.image_weight.at(number)
        on_objects = 0.0 if "object-head" in settings.without else settings.object_weight.at(number)
        return on_image, on_objects

    def _update_discriminator(
        self, parts: list[Batch], number: int, losses: dict[str, float], *, judged_again: bool
    ) -> GeneratorOutput:
        """Equation 14. Returns what was generated of the last part, with its graph if it is to be judged again."""
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for part in parts:
            with self._autocast(), nullcontext() if judged_again else torch.no_grad():
                fake = self._generate(part)
            with self._autocast():
                real = self.discriminator(part["image"], part["labels"], part["boxes"])
                judged = self.discriminator(fake.image.detach(), part["labels"], part["boxes"])
                loss = discriminator_loss(real, judged, part["weights"], *self._weights(number)) / len(parts)
            self.scaler.scale(loss).backward()
            total += loss.detach()
        losses["discriminator"] = self.processes.mean(total)
        update(
            self.discriminator,
            self.discriminator_optimizer,
            losses["discriminator"],
            self.processes,
            scaler=self.scaler,
        )
        return fake

    def _update_generator(
        self, parts: list[Batch], fake: GeneratorOutput, number: int, losses: dict[str, float]
    ) -> None:
        """Equation 11, and the losses on styles and masks."""
        self.generator_optimizer.zero_grad(set_to_none=True)
        self.discriminator.requires_grad_(False)
        totals: dict[str, Tensor] = {}
        for part in parts:
            with self._autocast():
                made = fake if len(parts) == 1 else self._generate(part)
                image = made.image
                judged = self.discriminator(image, part["labels"], part["boxes"])
                terms = {
                    "adversarial": adversarial_loss(judged, *self._weights(number)),
                    "l1": self.settings.l1_weight.at(number) * F.l1_loss(image, part["image"]),
                }
                if self.perceptual is not None:
                    terms |= self._perceptual_terms(self.perceptual, image, part["image"], number)
                if weight := self.settings.diversity_weight.at(number):
                    terms["diversity"] = weight * diversity_loss(image, self._generate(_with_other_styles(part)).image)
                if "owners" in part:
                    weight = self.settings.mask_weight.at(number)
                    terms["masks"] = weight * mask_loss(made.mask_final, part["labels"], part["owners"])
            self.scaler.scale(torch.stack(list(terms.values())).sum() / len(parts)).backward()
            for name, term in terms.items():
                totals[name] = totals.get(name, 0) + term.detach() / len(parts)
        self.discriminator.requires_grad_(True)
        losses |= {name: self.processes.mean(total) for name, total in totals.items()}
        update(self.generator, self.generator_optimizer, sum(losses.values()), self.processes, scaler=self.scaler)

    def _perceptual_terms(self, loss: FeatureDistance, image: Tensor, target: Tensor, number: int) -> dict[str, Tensor]:
        made, wanted = loss.both_maps(*shifted_alike(self._rng(number), image, target))
        terms = {"perceptual": self.settings.perceptual_weight.at(number) * loss.distance(made, wanted)}
        if weight := self.settings.texture_weight.at(number):
            terms["texture"] = weight * texture_loss(made, wanted)
        return terms

    @torch.no_grad()
    def _average(self, number: int) -> None:
        decay = min(self.settings.ema_decay, (1 + number) / (10 + number))
        for ours, theirs in zip(self.ema.parameters(), self.generator.parameters(), strict=True):
            ours.lerp_(theirs.detach(), 1 - decay)
        for (name, mine), others in zip(self.ema.named_buffers(), self.generator.buffers(), strict=True):
            if name.endswith(("running_mean", "running_var")):
                mine.lerp_(others, 1 - decay)
            else:
                mine.copy_(others)

    def _generate(self, part: Batch) -> GeneratorOutput:
        made: GeneratorOutput = self.generator(part["labels"], part["boxes"], part["z_obj"], part["z_img"])
        return made._replace(image=made.image.float().contiguous(memory_format=torch.channels_last))

    def _rng(self, number: int) -> torch.Generator:
        """A step's random numbers, from their first."""
        return torch.Generator().manual_seed(self.settings.seed * SEED_STRIDE + number)

    def _autocast(self) -> torch.autocast:
        """Not Fabric's: on a CPU it would turn fp16 into bf16."""
        dtype = torch.float16 if self.settings.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.settings.precision != "fp32")

    def _updates(self, batch: Batch, number: int) -> Iterator[list[Batch]]:
        """For each update this process's share of it, with style codes, on the device, in `accumulate` parts."""
        settings, world, rank = self.settings, self.processes.count, self.processes.rank
        updates, slots = settings.discriminator_updates, batch["labels"].shape[1]
        rng = self._rng(number)
        codes = {
            "z_obj": torch.randn(updates, settings.batch, slots, Z_DIM, generator=rng),
            "z_img": torch.randn(updates, settings.batch, Z_DIM, generator=rng),
        }
        shares = {name: list(tensor.chunk(updates)) for name, tensor in batch.items()}
        shares |= {name: [each.chunk(world)[rank] for each in code] for name, code in codes.items()}
        for k in range(updates):
            whole = {name: share[k].to(self.device, non_blocking=True) for name, share in shares.items()}
            whole["image"] = whole["image"].contiguous(memory_format=torch.channels_last)
            chunks = {name: tensor.chunk(settings.accumulate) for name, tensor in whole.items()}
            yield [{name: chunk[p] for name, chunk in chunks.items()} for p in range(settings.accumulate)]


def _generator_config(settings: TrainSettings, vocabulary: Vocabulary) -> GeneratorConfig:
    return GeneratorConfig(
        settings.variant,
        len(vocabulary),
        settings.ch,
        mask_classes(vocabulary),
        cast(Norm, settings.norm),
        layout_to_mask="layout-to-mask" not in settings.without,
        mask_refinement="mask-refinement" not in settings.without,
        max_pool_masks=settings.max_pool_masks,
        label_context=settings.label_context,
        noise=settings.noise,
    )


def _with_other_styles(part: Batch) -> Batch:
    """Layouts with the style codes of their neighbours."""
    return part | {name: part[name].roll(1, 0) for name in ("z_obj", "z_img")}


def _check(settings: TrainSettings, config: GeneratorConfig, world: int) -> None:
    """Raise TrainingError for settings that exclude each other, a batch that does not divide, or parts of it that are
    too small."""
    parts = world * settings.accumulate
    if settings.batch % parts:
        raise TrainingError(
            f"--batch {settings.batch} does not divide into {world} processes x {settings.accumulate} parts; "
            f"choose a multiple of {parts}"
        )
    if settings.texture_weight.ever and settings.perceptual == NONE:
        raise TrainingError(
            "--texture-weight compares features of the perceptual loss's network, and --perceptual is none; give "
            f"--perceptual {LITE} or a file of VGG19 weights"
        )
    if settings.diversity_weight.ever and settings.batch // parts < 2:
        raise TrainingError(
            f"--batch {settings.batch} in {parts} parts: --diversity-weight takes the styles of a part's neighbours, "
            "which must be 2 or more; raise --batch or lower --accumulate"
        )
    if settings.batch // settings.accumulate == 1 and config.refines_masks and config.pyramid_block is not None:
        raise TrainingError(
            f"--batch {settings.batch} in {settings.accumulate} parts: {config.variant} normalizes over the images of "
            "a part, which must be 2 or more; raise --batch or lower --accumulate"
        )
