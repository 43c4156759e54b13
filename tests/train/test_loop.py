"""The loop: whatever it trains, signals, bad steps, full disks and lost processes leave a run that goes on."""

from __future__ import annotations

import errno
import re
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lostgan_serve.errors import CheckpointError, DivergedError, OutputError
from lostgan_serve.progress import SILENT, Progress
from lostgan_train import distributed
from lostgan_train.data import Batch, Batches
from lostgan_train.distributed import Processes
from lostgan_train.loop import MOST_SKIPS, Loop, NotFiniteError, Rhythm, Stateful, update
from lostgan_train.sheets import curves
from lostgan_train.states import DamagedStateError, check_seal, newest_step, state_file, states_in
from training import Heard, losses


class Line:
    """The simplest learner: a straight line through points on y = 2 x."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = nn.Linear(1, 1)
        self.optimizer = torch.optim.Adam(self.network.parameters(), 0.1)
        self.numbers: list[int] = []

    @property
    def state(self) -> Mapping[str, Stateful]:
        return {"network": self.network, "optimizer": self.optimizer}

    def step(self, batch: Batch, number: int) -> dict[str, float]:
        self.numbers.append(number)
        x = batch["x"] + 0.01 * torch.randn(4, 1)
        loss = (self.network(x) - 2 * x).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            self.network.bias.add_(0.5)  # as a network that moves before the loss is known to be finite
        square = float(loss.detach())
        update(self.network, self.optimizer, square, Processes())
        return {"square": square}


def batches(first: int, steps: int = 6) -> Batches:
    for number in range(first, steps):
        yield {"x": torch.linspace(-1, 1, 4)[:, None] * (number + 1)}


def loop(out: Path, learner: Line | None = None, steps: int = 6, keep: int = 2, progress: Progress = SILENT) -> Loop:
    return Loop(
        "line",
        learner or Line(),
        out,
        Rhythm(steps, save_every=2, keep=keep),
        processes=distributed.start(),
        seed=0,
        images=4,
        about={"of": "a test"},
        hint="try again",
        progress=progress,
    )


def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(tmp_path: Path) -> None:
    whole, parts = Line(), Line()
    assert loop(tmp_path / "whole", whole).run(batches)
    first = loop(tmp_path / "parts", parts)

    def with_signal(number: int) -> Batches:
        for batch in batches(number):
            if first.done == 2:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    assert not first.run(with_signal)
    assert first.done == 3
    second = loop(tmp_path / "parts", parts := Line())
    assert second.resume()
    assert second.run(batches)
    assert torch.equal(whole.network.weight, parts.network.weight)
    assert torch.equal(whole.network.bias, parts.network.bias)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    assert sorted(path.name for path in (tmp_path / "parts").glob("state-*")) == [
        "state-0000004.pt",
        "state-0000006.pt",
    ]


def test_a_log_line_cut_off_by_a_kill_comes_again(tmp_path: Path) -> None:
    loop(tmp_path, steps=2).run(lambda first: batches(first, 2))
    log = tmp_path / "losses.jsonl"
    log.write_text(log.read_text() + '{"step": 3, "squ')
    (tmp_path / ".tmp-0000-state-0000004.pt").write_bytes(b"half a state")
    second = loop(tmp_path)
    assert second.resume()
    second.run(batches)
    assert [row["step"] for row in losses(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert list(tmp_path.glob(".tmp-*")) == []


@pytest.mark.parametrize(
    "damage",
    [b'{"step": 2, "squ\xff', bytes(40) + b"\n", b"[1]\n", b'{"step": "x"}\n', b'\n{"step": 9, "square": 1}\n'],
)
def test_a_damaged_log_loses_no_other_line(damage: bytes, tmp_path: Path) -> None:
    """A loss of power leaves NULs, a bad disk bytes that are no UTF-8; in the middle they must not shift the rest."""
    loop(tmp_path, steps=2).run(lambda first: batches(first, 2))
    log = tmp_path / "losses.jsonl"
    first, second = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(first + damage.rstrip(b"\n") + b"\n" + second + damage)
    assert curves(log).startswith(b"\x89PNG")
    again = loop(tmp_path)
    assert again.resume()
    again.run(batches)
    assert [row["step"] for row in losses(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert log.read_bytes().startswith(first + second)


def test_a_state_of_another_kind_of_run_is_refused(tmp_path: Path) -> None:
    loop(tmp_path, steps=2).run(lambda first: batches(first, 2))
    path = tmp_path / "state-0000002.pt"
    torch.save(torch.load(path, weights_only=True) | {"about": {"made_with": "a detector"}}, path)
    with pytest.raises(CheckpointError, match=r"state-0000002\.pt: is of other networks .*another kind of run"):
        loop(tmp_path).resume()


def _cut_off(state: bytes) -> bytes:
    return state[:1000]


def _one_bit_flipped(state: bytes) -> bytes:
    """Inside the weights, where nothing but a checksum would notice."""
    place = state.index(np.float32(-0.5).tobytes())
    return state[:place] + bytes([state[place] ^ 1]) + state[place + 1 :]


@pytest.mark.parametrize("damage", [_cut_off, _one_bit_flipped])
def test_a_damaged_state_is_set_aside_and_does_not_count(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    learner = Line()
    first = loop(tmp_path, learner, steps=4)
    first.run(lambda number: batches(number, 4))
    with torch.no_grad():
        learner.network.weight.fill_(-0.5)
    first.save()
    newest = tmp_path / "state-0000004.pt"
    newest.write_bytes(damage(newest.read_bytes()))
    second = loop(tmp_path)
    assert second.resume()
    assert second.done == 2
    second.run(batches)
    names = {path.name for path in tmp_path.glob("*state*")}
    assert names == {"damaged-state-0000004.pt", "state-0000004.pt", "state-0000006.pt"}
    for path in tmp_path.glob("state-*"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of its 2 states"):
        loop(tmp_path).resume()


def test_a_bit_that_flipped_anywhere_in_a_state_is_noticed(tmp_path: Path) -> None:
    """Also between the members of its archive, in their names and in the table at its end."""
    loop(tmp_path, steps=2).run(lambda first: batches(first, 2))
    whole = state_file(tmp_path, 2).read_bytes()
    copy = tmp_path / "copy"
    places = [*range(0, len(whole) - 300, 13), *range(len(whole) - 300, len(whole))]
    for number, place in enumerate(places):
        copy.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << number % 8)]) + whole[place + 1 :])
        with pytest.raises(DamagedStateError):
            check_seal(copy)
    for size in (0, 1, 21, 22, 86, len(whole) // 2, len(whole) - 1):
        copy.write_bytes(whole[:size])
        with pytest.raises(DamagedStateError):
            check_seal(copy)
    assert len(places) > 500


def test_a_damaged_state_is_one_line_that_names_it(tmp_path: Path) -> None:
    """Also where torch would call a flipped bit an error of the file system."""
    heard = Heard()
    loop(tmp_path, steps=4).run(lambda first: batches(first, 4))
    newest = state_file(tmp_path, 4)
    data = bytearray(newest.read_bytes())
    data[data.rindex(b"PK\5\6") + 18] ^= 0x80  # where the table of the archive begins
    newest.write_bytes(data)
    again = loop(tmp_path, progress=heard)
    assert again.resume()
    assert again.done == 2
    assert heard.lines == [f"note: {newest} cannot be read (its checksum differs); trying the one before"]


def test_a_state_of_an_earlier_version_has_no_checksum(tmp_path: Path) -> None:
    loop(tmp_path, steps=2).run(lambda first: batches(first, 2))
    path = state_file(tmp_path, 2)
    torch.save(torch.load(path, weights_only=True), path)
    again = loop(tmp_path)
    assert again.resume()
    assert again.done == 2


def test_a_release_that_a_kill_cut_off_comes_again(tmp_path: Path) -> None:
    """Also where the last step is done, after which no step follows."""

    def killed() -> None:
        raise KeyboardInterrupt

    first = loop(tmp_path)
    first.on_save = killed
    with pytest.raises(KeyboardInterrupt):
        first.run(batches)
    released: list[int] = []
    for _ in range(3):
        again = loop(tmp_path, steps=2)
        again.resume()
        again.on_save = lambda: released.append(2)
        assert again.run(lambda number: batches(number, 2))
    assert released == [2, 2, 2]


def test_a_folder_that_another_command_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".tmp-abc" / "new").mkdir(parents=True)
    assert loop(tmp_path).run(batches)


def test_a_full_disk_is_one_error_whoever_meets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    with pytest.raises(OutputError, match=r"tensorboard: cannot write .No space left on device"):
        loop(tmp_path).run(batches)


def test_states_are_ordered_by_their_step(tmp_path: Path) -> None:
    run = loop(tmp_path, steps=10_000_002, keep=1)
    tmp_path.mkdir(exist_ok=True)
    for run.done in (9_999_999, 10_000_000):
        run.save()
    assert newest_step(tmp_path) == 10_000_000
    assert [path.name for path in states_in(tmp_path)] == ["state-10000000.pt"]


@pytest.mark.parametrize("bad", [0, 3])
def test_a_step_that_is_not_finite_is_undone_and_counted(bad: int, tmp_path: Path) -> None:
    learner = Line()
    run = loop(tmp_path, learner)
    for number, batch in enumerate(batches(0)):
        before = [value.clone() for value in learner.network.parameters()]
        moments = len(learner.optimizer.state)
        if number == bad:
            batch["x"][0] = float("inf")
        run.step(batch)
        same = [torch.equal(a, b) for a, b in zip(before, learner.network.parameters(), strict=True)]
        assert all(same) if number == bad else not any(same)
        if number == bad:
            assert len(learner.optimizer.state) == moments
    assert (run.done, run.skipped) == (6, 1)


def test_steps_that_stay_not_finite_end_the_run(tmp_path: Path) -> None:
    run = loop(tmp_path, steps=100)
    with pytest.raises(DivergedError, match=r"20 steps in a row were not finite; .*: try again"):
        run.run(lambda _: ({"x": torch.full((4, 1), float("nan"))} for _ in range(100)))
    assert run.skipped == MOST_SKIPS


def test_a_loss_that_is_not_finite_is_refused_before_anything_changes() -> None:
    network = nn.Linear(1, 1)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 1)).sum().backward()
    before = network.weight.detach().clone()
    with pytest.raises(NotFiniteError):
        update(network, optimizer, float("inf"), Processes())
    assert torch.equal(network.weight, before)
    assert not optimizer.state


def test_gradients_are_clipped_to_their_norm() -> None:
    network = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(network.parameters(), 1.0)
    before = network.weight.detach().clone()
    network(torch.full((1, 1), 100.0)).sum().backward()
    update(network, optimizer, 0.0, Processes(), most_gradient=0.5)
    assert float(before - network.weight.detach()) == pytest.approx(0.5, rel=1e-4)


def test_samples_are_taken_at_their_rhythm_and_disturb_nothing(tmp_path: Path) -> None:
    plain, sampled = Line(), Line()
    loop(tmp_path / "plain", plain).run(batches)
    run = loop(tmp_path / "sampled", sampled)
    run.rhythm = Rhythm(6, save_every=2, sample_every=3)
    run.on_sample = lambda step: {"drawn": float(torch.rand(())) * 0 + step}
    run.run(batches)
    assert [row.get("drawn") for row in losses(tmp_path / "sampled")] == [None, None, 3, None, None, 6]
    assert torch.equal(plain.network.weight, sampled.network.weight)


def test_progress_tells_steps_figures_and_pace(tmp_path: Path) -> None:
    heard = Heard()
    loop(tmp_path, steps=2).run(lambda first: batches(first, 2))
    second = loop(tmp_path, progress=heard)
    assert second.resume()
    second.skipped = 2
    second.run(batches)
    done, total, text = heard.counts["line"]
    assert (done, total) == (6, 6)
    assert re.fullmatch(r"square \d+\.\d{3}  skipped 2  \d+\.\d images/s", text)
