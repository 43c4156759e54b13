"""The command `train` and its run.json: settings are kept, or changed on purpose, and a run survives what happens."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from conftest import Cli, fails_in_one_line
from lostgan_serve.errors import LostganError, TrainingError
from lostgan_train.commands import semi, train
from lostgan_train.loop import LOG_FILE
from lostgan_train.networks.checkpoint import load_checkpoint
from lostgan_train.run_file import RUN_FILE
from lostgan_train.settings import SemiSettings, TrainSettings, build
from lostgan_train.training import train as train_lostgan
from lostgan_train.training import train_semi, try_step
from training import OPTIONS, SETTINGS, losses

COMMAND = Path(sys.executable).parent / "lostgan-serve"


def run(*words: object, command: Any = train) -> str:
    """The output of `train` in this process. Raises what it raises."""
    done = CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def refused(match: str, *words: object) -> None:
    with pytest.raises(LostganError, match=match) as caught:
        run(*words)
    assert caught.value.exit_code == 2


def settings_of(out: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((out / RUN_FILE).read_text())["settings"]
    return settings


def test_a_resumed_run_needs_no_setting_again(scenes: Path, tmp_path: Path) -> None:
    """Not one of them goes back to its default, and the result is that of the run in one go."""
    own: tuple[object, ...] = (
        "--l1-weight",
        "5@1,1@3",
        "--ema-decay",
        0.9,
        "--precision",
        "bf16",
        "--balance",
        0.5,
        "--norm",
        "isla",
    )
    own += ("--discriminator-learning-rate", 2e-3, "--decay-steps", 2, "--checkpoint-every", 2)
    run(*OPTIONS, *own, "--data", scenes, "--steps", 4, "--out", tmp_path / "whole")
    run(*OPTIONS, *own, "--data", scenes, "--steps", 4, "--out", tmp_path / "parts")
    for file in ("state-0000004.pt", "generator.safetensors"):
        (tmp_path / "parts" / file).unlink()
    before = settings_of(tmp_path / "parts")
    run("--resume", "--out", tmp_path / "parts")
    assert settings_of(tmp_path / "parts") == before
    assert before["l1_weight"] == "5@1,1@3"
    assert before["data"] == str(scenes)
    whole, parts = ((tmp_path / name / "generator.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts


def test_changes_are_made_on_purpose_and_written_down(scenes: Path, tmp_path: Path) -> None:
    run(*OPTIONS, "--data", scenes, "--steps", 2, "--out", tmp_path)
    run("--resume", "--out", tmp_path, "--steps", 3, "--learning-rate", 1e-5)
    run("--resume", "--out", tmp_path, "--steps", 4)
    content = json.loads((tmp_path / RUN_FILE).read_text())
    assert content["changes"] == [
        {"after_step": 2, "changed": {"steps": [2, 3], "learning_rate": [1e-3, 1e-5]}},
        {"after_step": 3, "changed": {"steps": [3, 4]}},
    ]
    assert (content["settings"]["learning_rate"], content["settings"]["steps"]) == (1e-5, 4)
    assert len(losses(tmp_path)) == 4


def test_a_run_killed_before_its_first_state_begins_again(scenes: Path, tmp_path: Path) -> None:
    run(*OPTIONS, "--data", scenes, "--steps", 2, "--out", tmp_path)
    whole = (tmp_path / "generator.safetensors").read_bytes()
    for state in tmp_path.glob("state-*"):
        state.unlink()
    run("--resume", "--out", tmp_path)
    assert (tmp_path / "generator.safetensors").read_bytes() == whole
    assert len(losses(tmp_path)) == 2


def test_another_precision_is_taken_up(scenes: Path, tmp_path: Path) -> None:
    """fp16 has a gradient scaler that the states of the others lack."""
    run(*OPTIONS, "--data", scenes, "--steps", 1, "--out", tmp_path)
    run("--resume", "--out", tmp_path, "--steps", 2, "--precision", "fp16")
    run("--resume", "--out", tmp_path, "--steps", 3, "--precision", "bf16")
    assert len(losses(tmp_path)) == 3


def test_a_precision_that_this_cpu_emulates_is_told(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {}
    for cpu in ("AVX2", "AVX512"):
        for precision in ("fp32", "bf16"):
            monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda cpu=cpu: cpu)
            words = (*OPTIONS, "--data", scenes, "--steps", 1, "--out", tmp_path / cpu / precision)
            told[cpu, precision] = "bf16 is emulated" in run(*words, "--precision", precision)
    assert told == {case: case == ("AVX2", "bf16") for case in told}


def test_a_run_of_the_other_command_is_named(scenes: Path, tmp_path: Path) -> None:
    run(*OPTIONS, "--data", scenes, "--steps", 1, "--out", tmp_path)
    with pytest.raises(LostganError, match=r"a run of `train`; go on with: lostgan-serve train --resume --out"):
        run("--resume", "--out", tmp_path, command=semi)


def test_a_batch_that_is_too_large_leaves_nothing(scenes: Path, tmp_path: Path) -> None:
    refused(
        "a step takes 128 images, more than the 21", *OPTIONS, "--batch", 128, "--data", scenes, "--out", tmp_path / "x"
    )
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_an_undecodable_image_is_one_line_from_a_loading_process_too(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    data = tmp_path / "data"
    shutil.copytree(scenes, data)
    broken = data / "images" / "00000003.png"
    broken.write_bytes(b"no image")
    options = (*OPTIONS, "--data", data, "--out", tmp_path / "run", "--strict", "--workers", 1, "--steps", 50)
    fails_in_one_line(cli("train", *options), [broken, "cannot be decoded"])


def test_what_a_run_cannot_change_is_refused(scenes: Path, tmp_path: Path) -> None:
    run(*OPTIONS, "--data", scenes, "--steps", 1, "--out", tmp_path)
    before = (tmp_path / RUN_FILE).read_bytes()
    refused(r"run\.json: made with --batch 4, not 8", "--resume", "--out", tmp_path, "--batch", 8)
    refused(r"made with --without \(\), not", "--resume", "--out", tmp_path, "--without", "image-head")
    for option in ("--init", "--init-discriminator"):
        refused(f"{option} and --resume exclude each other", "--resume", "--out", tmp_path, option, "x.safetensors")
    refused("holds a run already", *OPTIONS, "--data", scenes, "--out", tmp_path)
    refused("no state to resume from", "--resume", "--out", tmp_path / "none")
    assert (tmp_path / RUN_FILE).read_bytes() == before
    for damage in ("{", '{"command": "train", "settings": 5, "changes": []}'):
        (tmp_path / RUN_FILE).write_text(damage)
        refused(r"run\.json: damaged .*another --out", "--resume", "--out", tmp_path)


def test_a_run_is_not_begun_over_another(scenes: Path, tmp_path: Path) -> None:
    """Also by whoever calls the functions behind the commands."""
    settings = replace(SETTINGS, data=scenes, steps=1)
    train_lostgan(settings, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    semi_settings = SemiSettings(**vars(settings))
    for begin in (
        lambda: train_lostgan(replace(settings, steps=2), tmp_path),
        lambda: train_semi(semi_settings, tmp_path),
        lambda: try_step(settings, tmp_path),
    ):
        with pytest.raises(TrainingError, match="holds a run already"):
            begin()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_dry_run_of_a_resumed_one_reads_its_state(scenes: Path, tmp_path: Path) -> None:
    run(*OPTIONS, "--data", scenes, "--steps", 2, "--checkpoint-every", 1, "--out", tmp_path)
    newest = tmp_path / "state-0000002.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert "adversarial" in run("--resume", "--out", tmp_path, "--dry-run")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    (tmp_path / "state-0000001.pt").write_bytes(b"")
    refused("none of its 2 states", "--resume", "--out", tmp_path, "--dry-run")


def test_paths_are_kept_wherever_a_run_goes_on(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scenes.parent)
    run(*OPTIONS, "--data", scenes.name, "--steps", 1, "--out", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    run("--resume", "--out", "run", "--steps", 2)
    assert settings_of(tmp_path / "run")["data"] == str(scenes)
    for name, kept in (("vgg19.pth", str(tmp_path / "vgg19.pth")), ("none", "none")):
        assert build(TrainSettings, {"variant": "v1-64", "data": "x", "perceptual": name}).perceptual == kept


def test_a_file_of_settings_takes_the_same_fields(scenes: Path, tmp_path: Path) -> None:
    config = tmp_path / "tiny.json"
    config.write_text(
        "\ufeff"
        + json.dumps(
            {"variant": "v1-64", "ch": 2, "batch": 4, "l1-weight": "3@2,1@4", "data": str(scenes), "perceptual": "none",
             "workers": 0, "without": ["image-head"], "steps": 2}
        )
    )  # fmt: skip
    run("--config", config, "--out", tmp_path / "run", "--steps", 1)
    stored = settings_of(tmp_path / "run")
    assert (stored["steps"], stored["ch"], stored["l1_weight"]) == (1, 2, "3@2,1@4")
    assert stored["without"] == ["image-head"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "bad.json: cannot be read as JSON"),
        ("[1]", "bad.json: must be an object"),
        ('{"rate": 1}', "unknown setting 'rate'; known: accumulate, "),
        ('{"ch": "wide"}', "--ch: 'wide' is no whole number"),
        ('{"ch": true}', "--ch: True is no whole number"),
        ('{"strict": 1}', "--strict: 1 is no flag"),
        ('{"ch": 0}', r"bad\.json: --ch 0: at least 1"),
        ('{"learning_rate": 0}', "--learning-rate 0.0: more than 0"),
        ('{"learning_rate": "nan"}', "--learning-rate: 'nan' is no finite number"),
        ('{"norm": "batch"}', r"bad\.json: --norm batch: one of isla, spade"),
        ('{"without": ["head"]}', "--without .*: one of layout-to-mask"),
        ('{"l1_weight": "1@5,2@3"}', "--l1-weight: '1@5,2@3': values of 0 or more at ascending steps"),
        ('{"l1_weight": -1}', "--l1-weight: -1: values of 0 or more"),
        ('{"learning_rate": true}', "--learning-rate: True is no finite number"),
        ('{"ema_decay": 1e999}', "--ema-decay: inf is no finite number"),
        ('{"seed": 5000000000}', "--seed 5000000000: at least 0 and at most 2147483647"),
        ("{}", "give --data and --perceptual, here or in the file of --config"),
    ],
)
def test_a_bad_file_of_settings_is_one_line(content: str, match: str, tmp_path: Path) -> None:
    config = tmp_path / "bad.json"
    config.write_text(content)
    refused(match, "--config", config, "--out", tmp_path / "run", "--variant", "v1-64")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", [train, semi])
def test_help_shows_every_setting_in_its_group(command: Any) -> None:
    text = run("--help", command=command)
    for group in ("Run:", "Data:", "Networks:", "Updates:", "Losses:", "State and samples:"):
        assert f"\n{group}\n" in text, group
    assert ("Detector and pseudo-labels:" in text) is (command is semi)
    for option in [line.split()[0] for line in text.splitlines() if line.startswith("  --")]:
        assert text.count(f"  {option} ") == 1, option
    flat = " ".join(text.split())
    assert "Width of the generator. [default: 64]" in flat
    assert "Seed of all that is random in the run. [default: 0]" in flat


def test_a_dry_run_writes_nothing(scenes: Path, tmp_path: Path) -> None:
    assert "adversarial" in run(*OPTIONS, "--data", scenes, "--out", tmp_path / "run", "--dry-run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_killed_at_any_moment_a_run_ends_in_the_same_weights(scenes: Path, tmp_path: Path) -> None:
    options = (*OPTIONS, "--data", scenes, "--steps", 30, "--checkpoint-every", 3)
    run(*options, "--out", tmp_path / "whole")
    out = tmp_path / "killed"
    rng = random.Random(5)
    words, kills = [*options, "--out", out], 0
    while kills < 3:
        process = subprocess.Popen(
            [COMMAND, "train", *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        started = _steps(out)
        _wait(lambda: _steps(out) > started or process.poll() is not None)  # noqa: B023
        time.sleep(rng.uniform(0, 0.5))
        if process.poll() is None:
            process.kill()
            kills += 1
        process.wait(60)
        words = ["--resume", "--out", out]
        if _steps(out) >= 30:
            break
    run("--resume", "--out", out)
    assert kills > 0
    for name in ("generator.safetensors", "discriminator.safetensors", "losses.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (out / name).read_bytes(), name
    assert list(out.glob(".tmp-*")) == []


def _steps(out: Path) -> int:
    return len((out / LOG_FILE).read_bytes().splitlines()) if (out / LOG_FILE).exists() else 0


def _wait(ready: Any) -> None:
    deadline = time.monotonic() + 120
    while not ready() and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.slow
def test_sigterm_saves_and_the_command_resumes(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = [*OPTIONS, "--data", scenes, "--out", out, "--workers", 1]
    words = [str(word) for word in (COMMAND, "train", *options, "--steps", 100_000)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    _wait((out / LOG_FILE).exists)
    os.killpg(process.pid, signal.SIGTERM)  # as a terminal or a cluster does: to the loading process, too
    _, output = process.communicate(timeout=60)
    assert process.returncode == 0
    assert f"go on with: --resume --out {out}" in output
    done = len(losses(out))
    assert (out / f"state-{done:07}.pt").is_file()
    refused(f"{out}: holds a run already.*--resume", *options)
    run("--resume", "--out", out, "--steps", done + 2)
    assert len(losses(out)) == done + 2


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_the_last_state_stays(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    """No file may grow beyond what the log needs: the kernel refuses the next state, as a full disk does."""
    out = tmp_path / "run"
    run(*OPTIONS, "--data", scenes, "--out", out, "--checkpoint-every", 2, "--steps", 2)
    before = {path.name: path.read_bytes() for path in out.glob("*.[ps]*t*")}
    resumed = ["--resume", "--out", out, "--steps", 4]
    full = cli("train", *resumed, file_limit_bytes=200_000)
    fails_in_one_line(full, [out, "cannot write", "too large"])
    assert {path.name: path.read_bytes() for path in out.glob("*.[ps]*t*")} == before
    run(*resumed)
    assert [row["step"] for row in losses(out)] == [1, 2, 3, 4]
    (out / LOG_FILE).unlink()
    (out / LOG_FILE).symlink_to("/dev/full")
    fails_in_one_line(cli("train", "--resume", "--out", out, "--steps", 5), [out / LOG_FILE, "No space left"])


def test_advice_on_damaged_runs_does_not_go_in_a_circle(scenes: Path, tmp_path: Path) -> None:
    """Each line names a way out that the other way of starting does not refuse."""
    options = (*OPTIONS, "--data", scenes, "--out", tmp_path / "run")
    run(*options, "--steps", 1)
    (tmp_path / "run/state-best.pt").write_bytes(b"a copy that someone made")
    run("--resume", "--out", tmp_path / "run", "--steps", 2)
    (tmp_path / "run" / RUN_FILE).unlink()
    refused(
        r"run\.json: missing, though there are states; restore it, or remove", "--resume", "--out", tmp_path / "run"
    )
    refused(r"holds states of a run, but no run\.json; remove the states \(state-\*\.pt\)", *options)
    for state in (tmp_path / "run").glob("state-0*.pt"):
        state.unlink()
    refused("start the run without --resume", "--resume", "--out", tmp_path / "run")
    run(*options, "--steps", 1)


@pytest.mark.slow
def test_a_full_disk_ends_processes_that_load(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    """They ignore SIGTERM, and Python joins them before it ends."""
    options = (*OPTIONS, "--data", scenes, "--steps", 50, "--workers", 2, "--checkpoint-every", 1)
    done = cli("train", *options, "--out", tmp_path / "run", file_limit_bytes=200_000)
    fails_in_one_line(done, [tmp_path / "run", "cannot write"])


@pytest.mark.slow
def test_data_may_lie_in_a_folder_whose_name_is_not_utf_8(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    data = tmp_path / os.fsdecode(b"donn\xe9es")
    shutil.copytree(scenes, data)
    annotations = data / "annotations.json"
    document = json.loads(annotations.read_text())
    document["categories"] = document["categories"][:-1]  # a set of one's own, called like its folder
    annotations.write_text(json.dumps(document))
    out = tmp_path / "run"
    cli("train", *OPTIONS, "--data", data, "--out", out, "--steps", 1, check=True)
    run("--resume", "--out", out, "--steps", 2)
    assert load_checkpoint(out / "generator.safetensors").vocabulary.name == "donn?es"
    other = tmp_path / os.fsdecode(b"ex\xe9cution")
    refused(r"--out .*UTF-8; choose another", *OPTIONS, "--data", data, "--out", other)
    assert not other.exists()
