"""The benchmarks: what they count, and options that would do nothing."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from conftest import run_cli
from lostgan_export.bench import formulations
from lostgan_export.bench.arithmetic import multiply_adds
from lostgan_export.bench.served import ClosedLoop
from lostgan_export.bench.turns import Build, turns
from lostgan_export.commands.bench import bench
from lostgan_serve.errors import LostganError, MissingExtraError, OutputError, ServerError


@pytest.mark.parametrize("url", ["http://localhost:8000", "https://localhost"])
def test_bench_wants_the_grpc_address(url: str) -> None:
    error = CliRunner().invoke(bench, ["--url", url]).exception
    assert isinstance(error, LostganError)
    assert "bench measures gRPC" in str(error)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rate", "6"], "--rate go with --url"),
        (["--concurrency", "4"], "--rate go with --url"),
        (["--url", "localhost:1", "--rate", "6", "--concurrency", "4"], "exclude each other"),
        (["--url", "localhost:1", "--plot", "bench.png"], "--plot does not go with --url"),
        (["--url", "localhost:1", "--checkpoint", "a.safetensors"], "--checkpoint does not go with --url"),
        (["--url", "localhost:1", "--files", "4"], "exclude each other"),
        (["--files", "4", "--plot", "bench.png"], "--plot does not go with --url or --files"),
        (["--files", "4", "--batch", "1,4"], "--batch does not go with --url or --files"),
        (["--url", "localhost:1", "--runner", "onnxrt"], "--runner does not go with --url or --files"),
        (["--model", "coast"], "--model goes with --url or --files"),
        (["--url", "localhost:1", "--rate", "nan"], "is not in the range"),
        (["--batch", "1,x"], "is no number of images; give a list such as 1,4"),
        (["--batch", "0"], "is no number of images; give a list such as 1,4"),
    ],
)
def test_bench_refuses_options_that_would_do_nothing(options: list[str], words: str) -> None:
    result = CliRunner().invoke(bench, options)
    assert result.exit_code == 2
    assert words in result.output


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_bench_refuses_files_that_cannot_be_written_before_it_measures(option: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "figures"):
        with pytest.raises(OutputError, match=str(path.relative_to(tmp_path.parent).parent)):
            CliRunner().invoke(bench, ["--checkpoint", "missing", option, str(path)], catch_exceptions=False)


@pytest.mark.parametrize("runner", ["openvino", "all"])
def test_bench_without_a_runtime(runner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"lostgan-serve\[openvino\]"):
        CliRunner().invoke(bench, ["--res", "64", "--runner", runner], catch_exceptions=False)


# Candidates, which are made in processes of their own


def endless() -> Callable[[Any], object]:
    return lambda _: time.sleep(3600)


def not_to_be_made() -> Callable[[Any], object]:
    raise MissingExtraError("no such package")


def at_work(kind: str) -> Callable[[Any], object]:
    jobs: dict[str, Callable[[Any], object]] = {
        "well": print,
        "out of range": [].__getitem__,
        "killed": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    }
    return jobs[kind]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("candidate", "error", "words"),
    [
        ((not_to_be_made, ()), MissingExtraError, "odd: no such package"),
        ((at_work, ("out of range",)), LostganError, "odd: IndexError: list index out of range"),
        ((at_work, ("killed",)), LostganError, "odd: ended before its time"),
    ],
)
def test_a_candidate_that_fails_says_why(
    candidate: tuple[Build, Sequence[Any]], error: type[LostganError], words: str
) -> None:
    with pytest.raises(error, match=words), turns({"even": (at_work, ("well",)), "odd": candidate}) as candidates:
        candidates.take(0)


@pytest.mark.slow
def test_a_candidate_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lostgan_export.bench.turns._JOB_S", 0.0)
    monkeypatch.setattr("lostgan_export.bench.turns._END_S", 0.0)
    with (
        pytest.raises(LostganError, match="endless: took longer than"),
        turns({"endless": (endless, ())}) as candidates,
    ):
        candidates.take(0)


def test_a_closed_loop_is_as_fast_as_its_server() -> None:
    """One that draws a layout at a time, in 5 ms at least."""
    server = threading.Lock()

    def ask(_: int) -> None:
        with server:
            time.sleep(0.005)

    images_per_s, latencies = ClosedLoop(clients=4, requests_each=3).run(ask)
    assert 0 < images_per_s <= 200
    assert len(latencies) == 4  # of 12: the first and the last four found clients idle


def test_bench_takes_a_grpc_url(tiny_repository: Path) -> None:
    arguments = ["--res", "128", "--repository", str(tiny_repository), "--url", "grpc://localhost:1"]
    error = CliRunner().invoke(bench, arguments).exception
    assert isinstance(error, ServerError)
    assert "grpc://localhost:1: " in str(error)


@pytest.mark.slow
def test_bench_command(tmp_path: Path, small_checkpoint: Path) -> None:
    """Without a server: every candidate, in a table and in a file."""
    report, plot = tmp_path / "bench.json", tmp_path / "bench.png"
    arguments = ["--res", "64", "--checkpoint", small_checkpoint, "--batch", "2", "--rounds", "1", "--json", report]
    arguments += ["--plot", plot]
    result = CliRunner().invoke(bench, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    content = json.loads(report.read_text())
    assert content["machine"]["cores"] >= 1
    measured = {(row["candidate"], row["batch"]) for row in content["in_process"]}
    names = (formulations.REFERENCE_TORCH, formulations.REFERENCE_ONNX, formulations.OURS)
    assert measured == {(name, 2) for name in names}
    shares = {row["candidate"]: row["share_of_peak"] for row in content["in_process"]}
    assert shares[formulations.REFERENCE_TORCH] is None
    assert 0 < shares[formulations.OURS] < 1.2
    assert Image.open(plot).width > 500
    assert all(row["seconds_per_image"] > 0 for row in content["in_process"])
    assert formulations.OURS in result.output


@pytest.mark.slow
def test_a_training_step_is_compared_with_the_paper_s(tmp_path: Path) -> None:
    file = tmp_path / "step.json"
    done = run_cli(
        *("bench-training", "--variant", "v1-64", "--ch", 2, "--batch", 2, "--rounds", 2, "--json", file), check=True
    )
    plain, ours = json.loads(file.read_text())["step"]
    assert plain["speedup"] == 1
    assert ours["speedup"] == pytest.approx(plain["seconds"] / ours["seconds"])
    assert min(plain["peak_mib"], ours["peak_mib"]) > 50
    assert len(ours["rounds"]) == 2
    assert done.stdout.splitlines()[0] == "v1-64, ch 2, fp32"


@pytest.mark.slow
def test_multiply_adds_are_counted(tmp_path: Path) -> None:
    """A 3x3 convolution of 2 to 4 maps of 8 x 8, and its maps times a matrix."""
    conv, matrix = torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.Linear(8, 5, bias=False)
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        torch.nn.Sequential(conv, matrix).eval(), (torch.zeros(2, 2, 8, 8),), dynamo=True, dynamic_shapes=[{0: batch}]
    )
    assert program is not None
    program.save(tmp_path / "model.onnx")
    assert multiply_adds(tmp_path / "model.onnx", batch=3) == 3 * (4 * 64 * 2 * 9 + 4 * 8 * 8 * 5)


def test_data_sets_are_compared_with_inference(tiny_repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "made.json"
    model = tiny_repository / "lostgan_128"
    done = run_cli("bench-synthesize", model, "--images", 6, "--rounds", 1, "--json", file, check=True)
    figures = json.loads(file.read_text("utf-8"))
    rows = figures["synthesize"]
    assert [(row["way"], row["images"]) for row in rows] == [("function", 6), ("local", 6)]
    assert all(row["share"] == row["rounds"][0] > 0 for row in rows)
    assert rows[0]["peak_mib"] is None
    assert rows[1]["peak_mib"] > 50  # of Python with NumPy and ONNX Runtime
    assert "command, local" in done.stdout
