"""`lostgan-serve evaluate` as a user types it, with real features."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from conftest import Cli, fails_in_one_line
from lostgan_evaluate.commands.evaluate import evaluate
from lostgan_evaluate.metrics import kernel
from lostgan_serve.errors import LostganError
from lostgan_serve.triton.server import running_server
from lostgan_train.data import open_data
from lostgan_train.synthetic.dataset import write_dataset

LITE = "efficientnet_lite0"


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "held-out"
    write_dataset(folder, 8, 64, workers=1, held_out=True)
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(evaluate, list(map(str, arguments)), catch_exceptions=False)


def result_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "evaluation.json").read_bytes())
    return found


def test_a_checkpoint_is_measured_and_everything_written_down(
    small_checkpoint: Path, held_out: Path, tmp_path: Path
) -> None:
    done = run(small_checkpoint, "--data", held_out, "--samples", 2, "--metrics", "kid,prdc,is", "--out", tmp_path)
    result = result_of(tmp_path)
    assert set(result["scores"]) == {
        f"{name}_{LITE}" for name in ("kid", "precision", "recall", "density", "coverage", "is")
    }
    assert not {"fid", "kid", "is"} & {line.split()[0] for line in done.stdout.splitlines()}  # of Inception alone
    for name, score in result["scores"].items():
        assert np.isfinite(score["value"]), name
        assert f"\n{name} " in done.stdout
    facts = result["scores"][f"kid_{LITE}"]["facts"]
    examples = open_data(held_out, split="val").examples  # of the eight those with neither too few objects nor too many
    count = len(examples)
    assert (facts["images"], facts["real_images"], facts["subset"]) == (2 * count, count, count)
    assert result["subject"]["model"]["variant"] == "v1-64"
    assert result["data"] == {
        "name": "held-out", "format": "scenes", "vocabulary": "scenes", "images": count,
        "objects": sum(len(example.labels) for example in examples),
    }  # fmt: skip
    protocol = result["protocol"]
    assert (protocol["name"], protocol["samples"], protocol["truncation"]) == ("scenes-64", 2, 2.0)
    assert protocol["reading"]["antialias"] is True
    assert result["versions"]["torch"]


@pytest.mark.slow
def test_all_says_why_the_rest_is_left_out(small_checkpoint: Path, held_out: Path, tmp_path: Path) -> None:
    done = run(small_checkpoint, "--data", held_out, "--count", 3, "--samples", 1, "--out", tmp_path)
    result = result_of(tmp_path)
    assert "3 images are too few for 1280 features" in result["left_out"]["fd"]
    assert "--training-data" in result["left_out"]["neighbours"]
    assert "left out: fd: " in done.output


def test_an_interrupted_call_keeps_earlier_scores(
    small_checkpoint: Path, held_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (small_checkpoint, "--data", held_out, "--samples", 1, "--out", tmp_path, "--metrics", "prdc,kid")
    run(*options)
    before = result_of(tmp_path)["scores"]

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(kernel, "METRIC", replace(kernel.METRIC, measure=interrupt))
    assert run(*options).exit_code == 1
    assert result_of(tmp_path)["scores"] == before
    assert f"kid_{LITE}" in before


def test_other_metrics_use_what_is_there(small_checkpoint: Path, held_out: Path, tmp_path: Path) -> None:
    options = (small_checkpoint, "--data", held_out, "--samples", 1, "--out", tmp_path)
    run(*options, "--metrics", "kid")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.suffix in (".png", ".npz")}
    assert before
    first = result_of(tmp_path)["scores"]
    run(*options, "--metrics", "prdc")
    assert result_of(tmp_path)["scores"][f"kid_{LITE}"] == first[f"kid_{LITE}"]  # both stand side by side
    assert f"recall_{LITE}" in result_of(tmp_path)["scores"]
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.suffix in (".png", ".npz")}
    assert after == before
    run(*options, "--count", 6, "--metrics", "prdc")
    assert f"kid_{LITE}" not in result_of(tmp_path)["scores"]  # of other images


def test_a_folder_of_another_tool(held_out: Path, tmp_path: Path) -> None:
    """Wrong sizes, JPEGs, grey, extra files, missing layouts: numbers all the same."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for number, example in enumerate(open_data(held_out, split="val").examples[:6]):
        image = Image.open(example.image).resize((50 + number, 70))
        image.convert("L" if number == 2 else "RGB").save(theirs / f"{example.image.stem}_0.jpg", quality=80)
    (theirs / "log.txt").write_text("done")
    Image.new("RGB", (9, 9)).save(theirs / "logo.png")
    done = run("--images", theirs, "--data", held_out, "--metrics", "kid,is", "--out", tmp_path / "out")
    result = result_of(tmp_path / "out")
    subject = result["subject"]
    assert (subject["images"], subject["layouts"], subject["model"], subject["duplicates"]) == (6, 6, None, 0)
    assert abs(result["scores"][f"kid_{LITE}"]["value"]) < 5
    assert "1 of 7 images are of no layout" in done.stderr


def test_copies_of_an_image_are_counted(held_out: Path, tmp_path: Path) -> None:
    """Whatever they are called, and without a change of what is measured."""
    (tmp_path / "copies").mkdir()
    content = next((held_out / "images").iterdir()).read_bytes()
    for name in "abcdefg":
        (tmp_path / "copies" / f"{name}.png").write_bytes(content)
    options = ("--against", held_out / "images", "--metrics", "prdc", "--out", tmp_path / "out")
    done = run("--images", tmp_path / "copies", *options)
    assert "6 of 7 generated images are the same as another" in done.stderr
    result = result_of(tmp_path / "out")
    assert result["subject"]["duplicates"] == 6
    assert result["scores"][f"precision_{LITE}"]["value"] == 1
    assert result["scores"][f"recall_{LITE}"]["value"] < 0.5


def test_real_against_itself_is_near_nothing(held_out: Path, tmp_path: Path) -> None:
    run("--images", held_out / "images", "--against", held_out / "images", "--metrics", "kid,prdc", "--out", tmp_path)
    scores = result_of(tmp_path)["scores"]
    assert scores[f"precision_{LITE}"]["value"] == scores[f"recall_{LITE}"]["value"] == 1
    assert scores[f"kid_{LITE}"]["value"] < 0.1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give either a MODEL"),
        (("model", "--images", "theirs"), "give either a MODEL"),
        (("model",), "give --data"),
        (("model", "--against", "real"), "--against is for --images"),
        (("model", "--data", "nowhere"), "nowhere: no such folder"),
        (("model.safetensors", "--data", "DATA"), "model.safetensors: no such checkpoint"),
        (("model.safetensors", "--data", "DATA", "--metrics", "kid,lpips"), "there is no 'lpips'; choose from all, is"),
        (("model.safetensors", "--data", "DATA", "--features", "resnet"), "resnet"),
        (("--images", "DATA", "--data", "DATA", "--metrics", "neighbours"), "--training-data"),
        (("--images", "DATA", "--against", "DATA", "--metrics", "fd"), "too few"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], words: str, held_out: Path, tmp_path: Path) -> None:
    given = [str(held_out) if word == "DATA" else word for word in arguments]
    with pytest.raises(LostganError) as caught:
        run(*given, "--out", tmp_path / "out")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "evaluation.json").exists()


@pytest.mark.slow
def test_the_command_line_ends_with_one_line(cli: Cli, held_out: Path, tmp_path: Path) -> None:
    done = cli("evaluate", "missing.safetensors", "--data", held_out, "--out", tmp_path / "out")
    fails_in_one_line(done, ["missing.safetensors", "no such checkpoint"])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_every_runner_gives_the_same_numbers(
    tiny_checkpoint: Path, tiny_repository: Path, held_out: Path, tmp_path: Path
) -> None:
    """PyTorch, ONNX Runtime, OpenVINO and a server: the same layouts and seeds, images but for their last level."""
    options = ("--data", held_out, "--samples", 2, "--metrics", "kid,is")
    model = tiny_repository / "lostgan_128"
    run(tiny_checkpoint, *options, "--out", tmp_path / "torch")
    run(model, *options, "--runner", "onnxrt", "--out", tmp_path / "onnxrt")
    run(model, *options, "--runner", "openvino", "--out", tmp_path / "openvino")
    with running_server(tiny_repository) as server:
        run("lostgan_128", *options, "--url", server.grpc, "--out", tmp_path / "triton")
    expected = result_of(tmp_path / "torch")
    for runner in ("onnxrt", "openvino", "triton"):
        found = result_of(tmp_path / runner)
        assert found["subject"]["runner"] != expected["subject"]["runner"]
        for name, score in expected["scores"].items():
            assert found["scores"][name]["value"] == pytest.approx(score["value"], rel=0.02), (runner, name)
