"""One training loop for every network: signals, cadence, progress, steps that are not finite, state, log.

A network gives the loop `step` and `state`. Everything random in a step is a function of the seed and of the step's
number, so a state needs no generator's state, and a run that was interrupted is the run that was not. Whatever is
decided - to stop, to save, to skip - is decided by all processes together.
"""

from __future__ import annotations

import math
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from lostgan_serve.errors import CheckpointError, DivergedError, InputError
from lostgan_serve.files import reading, write_file, writing
from lostgan_serve.progress import SILENT, Progress
from lostgan_train.data import Batch, Batches
from lostgan_train.distributed import Processes
from lostgan_train.log import line_of, read_log
from lostgan_train.signals import stop_on_signals
from lostgan_train.states import (
    STATE_FILES,
    DamagedStateError,
    check_seal,
    sealed,
    set_aside,
    state_file,
    states_in,
)

MOST_SKIPS = 20
"""Steps in a row that are not finite, after which a run stops."""

LOG_FILE, BOARD_FOLDER = "losses.jsonl", "tensorboard"
SEED_STRIDE = 1_000_003
_MOST_PROCESSES = 4096


class NotFiniteError(Exception):
    """A loss or a gradient that is not finite, in any process; all of them raise it at the same place."""


class Stateful(Protocol):
    """A part of a learner: a network, an optimizer, a scaler."""

    def state_dict(self) -> dict[str, Any]:
        """The values that a step changes."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Take up values of `state_dict`. Raises RuntimeError, ValueError or KeyError for those of another part."""


class Learner(Protocol):
    """Anything that a loop trains."""

    @property
    def state(self) -> Mapping[str, Stateful]:
        """The parts that a step changes, by name."""

    def step(self, batch: Batch, number: int) -> dict[str, float]:
        """Make update `number`, counted from 0. Returns losses by name. Raises NotFiniteError."""


@dataclass(frozen=True)
class Rhythm:
    """The pace of a run. steps: all of them. save_every: steps between saved states. keep: newest states to keep.
    sample_every: steps between calls of `Loop.on_sample`."""

    steps: int
    save_every: int
    keep: int = 1
    sample_every: int | None = None


class Loop:
    """The training of one learner, in a folder of its own.

    about: what a state says of the run. images: in a step. hint: how a user lowers the risk of losses that are not
    finite. on_save, on_sample: called in the first process; `on_sample` returns figures to log.
    """

    on_save: Callable[[], object] | None = None
    on_sample: Callable[[int], Mapping[str, float]] | None = None

    def __init__(
        self,
        name: str,
        learner: Learner,
        out: Path,
        rhythm: Rhythm,
        *,
        processes: Processes,
        seed: int,
        images: int,
        about: Mapping[str, Any],
        hint: str,
        progress: Progress = SILENT,
    ) -> None:
        self.name, self.learner, self.out, self.rhythm, self.processes = name, learner, out, rhythm, processes
        self.seed, self.images, self.about, self.hint = seed, images, dict(about), hint
        self.progress = processes.telling(progress)
        self.done = self.skipped = self.skipped_in_a_row = 0
        self.stopping = False
        self._damaged: list[Path] = []
        self._before = Snapshot(learner.state)

    def run(self, batches: Callable[[int], Batches]) -> bool:
        """Train up to the last step, or until SIGTERM or SIGINT reaches any process; either way the state is saved.

        batches: makes the batches from a step on. Returns whether all steps are done. Raises DivergedError where steps
        stay not finite, and OutputError.
        """
        with writing(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
            self._set_damaged_aside()
            self._sweep()
            self._cut_log()
        if self.done and self.processes.first and self.on_save:
            self.on_save()  # a kill may have come between the last state and its release
        rhythm, device = self.rhythm, self.processes.device
        seeds = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        with (
            stop_on_signals(self.stop), seeds, self._records() as record, closing(batches(self.done)) as steps,
        ):  # fmt: skip
            for batch in steps:
                losses = self.step(batch)
                (stop,) = self.processes.any(self.stopping)
                if rhythm.sample_every and self.done % rhythm.sample_every == 0:
                    losses |= self._sample()
                record(losses)
                if stop or self.done % rhythm.save_every == 0 or self.done == rhythm.steps:
                    self.save()
                if stop:
                    break
        return self.done >= rhythm.steps

    def step(self, batch: Batch) -> dict[str, float]:
        """Let the learner make one update; one that is not finite in any process changes nothing in all of them."""
        torch.manual_seed((self.seed * SEED_STRIDE + self.done) * _MOST_PROCESSES + self.processes.rank)
        self._before.take()
        try:
            losses = self.learner.step(batch, self.done)
            self.skipped_in_a_row = 0
        except NotFiniteError:
            self._before.put_back()
            losses = {}
            self.skipped += 1
            self.skipped_in_a_row += 1
        self.done += 1
        if self.skipped_in_a_row >= MOST_SKIPS:
            raise DivergedError(
                f"{self.out}: {MOST_SKIPS} steps in a row were not finite; the last good state is kept: {self.hint}"
            )
        return losses

    def save(self) -> None:
        """Write the whole state, then whatever `on_save` writes; each file whole or not at all."""
        if not self.processes.first:
            return
        buffer = BytesIO()
        parts = {name: part.state_dict() for name, part in self.learner.state.items()}
        torch.save({"about": self.about, "step": self.done, "skipped": self.skipped, **parts}, buffer)
        write_file(state_file(self.out, self.done), sealed(buffer.getvalue()))
        with writing(self.out):
            for old in states_in(self.out)[self.rhythm.keep :]:
                old.unlink()
        if self.on_save:
            self.on_save()

    def resume(self, check: Callable[[Path, dict[str, Any]], None] = lambda _file, _about: None) -> bool:
        """Go on from the newest state that is whole; whether there is any state. Writes nothing; `run` sets aside the
        damaged ones.

        check: told of the state's file and of its words on its run, to refuse it. Raises CheckpointError where no state
        is whole, or the newest of them is of another kind of run.
        """
        with reading(self.out):
            files = states_in(self.out)
        (some, none) = self.processes.any(bool(files), not files)
        if some and none:
            raise CheckpointError(f"{self.out}: not all processes see its states; keep runs on storage that all share")
        for file in files:
            state = self._whole_state(file)
            if state is None:
                self._damaged.append(file)
                continue
            if self.about.keys() - state["about"].keys():
                raise _foreign(file, "it tells of another kind of run")
            check(file, state["about"])
            self._take(file, state)
            self.done, self.skipped = state["step"], state["skipped"]
            return True
        if files:
            raise CheckpointError(
                f"{self.out}: none of its {len(files)} states ({STATE_FILES}) can be read; remove them to begin anew, "
                "or choose another --out"
            )
        return False

    def _take(self, file: Path, state: Mapping[str, Any]) -> None:
        """Give each part of the learner its own. Raises CheckpointError where the state is of other networks."""
        for name, part in self.learner.state.items():
            if name == "scaler" and name not in state:  # fp16's: the run had another precision before
                continue
            try:
                part.load_state_dict(state[name])
            except (KeyError, RuntimeError, TypeError, ValueError) as error:
                raise _foreign(file, f"{name} does not fit") from error

    def _whole_state(self, file: Path) -> dict[str, Any] | None:
        """A state, or None where it is damaged for any of the processes: all go on from the same one. Raises InputError
        where the file cannot be read for another reason."""
        state, reason = None, ""
        try:
            with reading(file):
                check_seal(file)
            state = _read_state(file)
        except InputError:
            raise
        except DamagedStateError as error:
            reason = str(error)
        except Exception as error:  # torch raises many kinds for a damaged file
            reason = type(error).__name__
        (damaged,) = self.processes.any(state is None)
        if damaged:
            self.progress.note(f"note: {file} cannot be read ({reason or 'by another process'}); trying the one before")
        return None if damaged else state

    def _set_damaged_aside(self) -> None:
        """Rename damaged states, so that they do not count as some of those to keep."""
        if self.processes.first:
            for file in self._damaged:
                set_aside(file)
        self._damaged = []

    def _sweep(self) -> None:
        """Delete what killed saves left."""
        if self.processes.first:
            for leftover in (*self.out.glob(".tmp-*"), *self.out.glob("*/.tmp-*")):
                if leftover.is_file():
                    leftover.unlink(missing_ok=True)

    def _cut_log(self) -> None:
        """Drop what an interrupted run logged after its last state: it comes again."""
        log = self.out / LOG_FILE
        if self.processes.first and log.is_file():
            write_file(log, "".join(map(line_of, read_log(log, self.done))).encode())

    def _sample(self) -> dict[str, float]:
        if self.on_sample is None or not self.processes.first:
            return {}
        return dict(self.on_sample(self.done))

    @contextmanager
    def _records(self) -> Iterator[Callable[[dict[str, float]], None]]:
        """Yield a function that tells a step's figures to the log, TensorBoard and whoever watches."""
        if not self.processes.first:
            yield lambda _: None
            return
        counted = self.progress.count(self.name, self.rhythm.steps, self.done)
        with _board(self.out / BOARD_FOLDER, self.done) as board, counted as advance:
            first, start = self.done, time.monotonic()

            def record(figures: dict[str, float]) -> None:
                line = {"step": self.done, **{k: round(v, 6) for k, v in figures.items()}, "skipped": self.skipped}
                with writing(self.out / LOG_FILE), (self.out / LOG_FILE).open("a") as file:
                    file.write(line_of(line))
                with writing(self.out / BOARD_FOLDER):
                    for name, value in figures.items():
                        board.add_scalar(name, value, self.done)
                told = figures | ({"skipped": self.skipped} if self.skipped else {})
                pace = (self.done - first) * self.images / (time.monotonic() - start)
                advance(self.done, f"{words(told)}  {pace:.1f} images/s")

            yield record

    def stop(self) -> None:
        """Let the run end, its state saved, after the step that is being made."""
        self.stopping = True


def words(figures: Mapping[str, float]) -> str:
    """Figures by name as a line for people."""
    return "  ".join(f"{name} {value:.3f}".removesuffix(".000") for name, value in figures.items())


def _read_state(file: Path) -> dict[str, Any]:
    """A state that was saved. Its archive is tested for the sake of states without a checksum: torch would not notice a
    flipped bit. Raises whatever a damaged file makes it."""
    with zipfile.ZipFile(file) as archive:
        if (broken := archive.testzip()) is not None:
            raise zipfile.BadZipFile(broken)
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    if missing := {"about", "step", "skipped"} - state.keys():
        raise KeyError(*missing)
    return state


def _foreign(file: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{file}: is of other networks than this run's ({reason}); remove it, or choose another --out"
    )


@contextmanager
def _board(folder: Path, done: int) -> Iterator[SummaryWriter]:
    """TensorBoard's writer of a run that goes on after a step. Raises OutputError."""
    with writing(folder):
        board = SummaryWriter(folder, purge_step=done + 1)
    try:
        yield board
        with writing(folder):
            board.close()
    except BaseException:
        with suppress(OSError):
            board.close()
        raise


class Snapshot:
    """Networks and optimizers as they are before a step, to be put back after one that failed.

    A gradient scaler is left out: it has to learn from the failure.
    """

    def __init__(self, parts: Mapping[str, Stateful]) -> None:
        self._networks = [part for part in parts.values() if isinstance(part, nn.Module)]
        self._optimizers = [part for part in parts.values() if isinstance(part, torch.optim.Optimizer)]
        self._copies: list[Tensor] = []
        self._fresh: list[bool] = []

    def take(self) -> None:
        """Copy everything, into the memory of the copies before."""
        self._fresh = [not optimizer.state for optimizer in self._optimizers]
        tensors = self._tensors()
        if len(tensors) != len(self._copies):
            self._copies = [torch.empty_like(tensor) for tensor in tensors]
        for copy, tensor in zip(self._copies, tensors, strict=True):
            copy.copy_(tensor)

    def put_back(self) -> None:
        """Undo all changes since `take`."""
        for optimizer, fresh in zip(self._optimizers, self._fresh, strict=True):
            if fresh:
                optimizer.state.clear()
        for tensor, copy in zip(self._tensors(), self._copies, strict=True):
            tensor.copy_(copy)

    def _tensors(self) -> list[Tensor]:
        states = [state for optimizer in self._optimizers for state in optimizer.state.values()]
        moments = [value for state in states for value in state.values() if isinstance(value, Tensor)]
        own = [tensor for network in self._networks for tensor in (*network.parameters(), *network.buffers())]
        return [tensor.detach() for tensor in (*own, *moments)]


def update(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: float,
    processes: Processes,
    *,
    scaler: torch.amp.GradScaler | None = None,
    most_gradient: float = math.inf,
) -> None:
    """Let an optimizer step by the mean gradients of all processes, clipped to a norm of `most_gradient`.

    loss: mean over the processes. Raises NotFiniteError where it or a gradient is not finite, before anything changes.
    """
    processes.average_gradients(network.parameters())
    if scaler is not None:
        scaler.unscale_(optimizer)  # after the average, so that every process's scaler sees the same
        scaler.update()
    norm = nn.utils.clip_grad_norm_(network.parameters(), most_gradient)
    if not (math.isfinite(loss) and bool(torch.isfinite(norm))):
        raise NotFiniteError
    optimizer.step()
