"""Many processes: each has a device of its own, all decide together, and they are as one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from lostgan_serve.errors import TrainingError
from lostgan_train import distributed
from training import OPTIONS, losses

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def torchrun(processes: int, *words: object) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*launcher, *map(str, words)]


@pytest.mark.parametrize("rank", range(8))
def test_each_process_asks_for_its_own_gpu(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a faked machine with 8 GPUs, by torchrun's environment; what a device is used for is left out."""
    fake_torchrun(monkeypatch, rank, 8, gpus=8)
    assert distributed.start().device == torch.device("cuda", rank)


def test_two_machines_count_their_gpus_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_torchrun(monkeypatch, 11, 16, gpus=8)
    assert distributed.start().device == torch.device("cuda", 3)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_torchrun(monkeypatch, 0, 4, gpus=2)
    with pytest.raises(TrainingError, match="4 processes, but 2 GPUs here; start torchrun with --nproc-per-node 2"):
        distributed.start()


def fake_torchrun(monkeypatch: pytest.MonkeyPatch, rank: int, world: int, gpus: int) -> None:
    here = min(world, 8)
    for name, value in {
        "RANK": rank,
        "LOCAL_RANK": rank % here,
        "WORLD_SIZE": world,
        "LOCAL_WORLD_SIZE": here,
        "GROUP_RANK": rank // here,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": 29500,
        "TORCHELASTIC_RUN_ID": "test",
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr("lightning_fabric.accelerators.cuda.num_cuda_devices", lambda: gpus)
    monkeypatch.setattr("lightning_fabric.Fabric.launch", lambda _: None)


@pytest.fixture(scope="module")
def trained_by(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[dict[str, float]]]:
    """The losses of six steps by a number of processes."""

    @cache
    def train(processes: int) -> list[dict[str, float]]:
        out = tmp_path_factory.mktemp("run") / "run"
        options = (*OPTIONS, "--batch", 6, "--learning-rate", 1e-4, "--discriminator-updates", 2, "--steps", 6)
        command = torchrun(processes, "-m", "lostgan_train", *options, "--data", scenes, "--out", out)
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
        assert done.returncode == 0, done.stderr
        return losses(out)

    return train


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.long)])
def test_processes_are_as_one(processes: int, trained_by: Callable[[int], list[dict[str, float]]]) -> None:
    """A share of the batch each, over gloo: the losses within 1e-4, batch norm synchronized."""
    assert len(trained_by(1)) == 6
    for one, many in zip(trained_by(1), trained_by(processes), strict=True):
        assert many == pytest.approx(one, rel=1e-4, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("at", ["0:4 1:3", *(pytest.param(at, marks=pytest.mark.long) for at in ("1:3", "0:3 1:3"))])
def test_signals_stop_all_processes_at_the_same_step(at: str, scenes: Path, tmp_path: Path) -> None:
    """Whichever of them sees one, and when. at: rank and step of each signal."""
    out = tmp_path / "run"
    options = (*OPTIONS, "--data", scenes, "--out", out, "--steps", 10_000)
    command = torchrun(2, "--no-python", sys.executable, "-c", _SIGNALLED, *options)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=ENVIRONMENT | {"SIGNALS": at})
    assert done.returncode == 0, done.stderr
    assert len(losses(out)) == 3
    assert (out / "state-0000003.pt").is_file()
    assert done.stderr.count("stopped after step 3") == 1


_SIGNALLED = """
import os, signal, sys
from lostgan_train.loop import Loop
step = Loop.step
def step_and_signal(loop, batch):
    losses = step(loop, batch)
    here = f"{os.environ['RANK']}:{loop.done}"
    if loop.name == "training" and here in os.environ["SIGNALS"].split():
        signal.raise_signal(signal.SIGTERM)
    return losses
Loop.step = step_and_signal
from lostgan_serve.commands import main
main(["train", *sys.argv[1:]])
"""


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_is_skipped_in_all(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = [str(word) for word in (*OPTIONS, "--data", scenes, "--out", out, "--steps", 3)]
    command = torchrun(2, "--no-python", sys.executable, "-c", _POISONED, *options)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert [row["skipped"] for row in losses(out)] == [0, 1, 1]
    sums = {line for line in done.stdout.splitlines() if line.startswith("weights")}
    assert len(sums) == 1, done.stdout


_POISONED = """
import os, sys
from lostgan_train.gan import GAN
from lostgan_train.training import TrainingRun
step = GAN.step
def poisoned(gan, batch, number):
    if number == 1 and os.environ["RANK"] == "1":
        batch["image"][0, 0, 0, 0] = float("nan")
    return step(gan, batch, number)
GAN.step = poisoned
run = TrainingRun.run
def run_and_tell(training):
    run(training)
    print("weights", sum(float(p.detach().double().sum()) for p in training.gan.discriminator.parameters()), flush=True)
TrainingRun.run = run_and_tell
from lostgan_serve.commands import main
main(["train", *sys.argv[1:]])
"""


@pytest.mark.slow
def test_synchronized_batch_norm_is_that_of_the_whole_batch_in_double_precision(tmp_path: Path) -> None:
    """Values about 1000 with a spread of 1: squares in single precision would leave no digit of it. Outputs, gradients
    and running statistics of two processes against float64 on all values at once."""
    done = subprocess.run(
        torchrun(2, "--no-python", sys.executable, "-c", _BATCH_NORM, tmp_path),
        capture_output=True,
        text=True,
        timeout=120,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    x = torch.cat([part["x"] for part in parts]).double().requires_grad_()
    norm = nn.BatchNorm2d(3).double()
    norm.weight.data = torch.tensor([0.5, 1.0, 2.0]).double()
    y = norm(x)
    (y * torch.cat([part["pull"] for part in parts]).double()).sum().backward()
    assert x.grad is not None
    for name, expected, tolerance in (("y", y, 2e-3), ("gradient", x.grad, 2e-3)):
        actual = torch.cat([part[name] for part in parts]).double()
        torch.testing.assert_close(actual, expected.detach(), rtol=0, atol=tolerance)
    for part in parts:
        torch.testing.assert_close(part["mean"].double(), norm.running_mean, rtol=1e-6, atol=0)
        torch.testing.assert_close(part["var"].double(), norm.running_var, rtol=1e-3, atol=0)


_BATCH_NORM = """
import sys, torch
from torch import nn
from lostgan_train.distributed import start, synchronize_batch_norm
rank = start().rank
rng = torch.Generator().manual_seed(rank)
network = nn.Sequential(nn.BatchNorm2d(3))
synchronize_batch_norm(network)
network[0].weight.data = torch.tensor([0.5, 1.0, 2.0])
x = (1000 + 3 * rank + torch.randn(2 + rank, 3, 5, 5, generator=rng)).requires_grad_()
pull = torch.randn(x.shape, generator=rng)
y = network(x)
(y * pull).sum().backward()
torch.save({"x": x.detach(), "pull": pull, "y": y.detach(), "gradient": x.grad,
            "mean": network[0].running_mean, "var": network[0].running_var}, f"{sys.argv[1]}/{rank}.pt")
"""


@pytest.mark.slow
def test_killing_one_process_ends_the_others(scenes: Path, tmp_path: Path) -> None:
    """By torchrun, within its grace: no process is left behind in a collective operation."""
    out = tmp_path / "run"
    options = (*OPTIONS, "--data", scenes, "--out", out, "--steps", 100_000)
    command = torchrun(2, "-m", "lostgan_train", *options)
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not (out / "losses.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    assert process.wait(90) != 0


@pytest.mark.slow
def test_two_processes_train_a_detector_and_share_the_labelling(scenes: Path, tmp_path: Path) -> None:
    """Every image that is not annotated is labelled once, and both processes train on the same images then."""
    own = ("--threshold", 0.0, "--detector-steps", 2, "--detector-batch", 2, "--steps", 2)
    command = torchrun(2, "-m", "lostgan_train", "semi", *OPTIONS, *own, "--data", scenes, "--out", tmp_path)
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "detector"
    images = json.loads((folder / "detections.json").read_text())["images"]
    assert len(images) == 11
    assert done.stderr.count("labelled: 11 images") == 1
    assert list(folder.glob("detections-*.json")) == []
    assert [row["skipped"] for row in losses(tmp_path)] == [0, 0]
