"""The command line, as a user meets it: pictures from layouts, and one clear line for each kind of bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import EXAMPLES, ROOT, Cli, fails_in_one_line
from lostgan_serve import Layout, generate
from lostgan_serve.choices import MAX_SEED
from lostgan_serve.runners.onnxrt import OnnxRunner

LOSTGAN_SERVE = str(Path(sys.executable).parent / "lostgan-serve")
SKY = {"label": "sky", "box": [0, 0, 1, 0.5]}


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_generate_writes_three_pictures_per_layout(cli: Cli, tiny_repository: Path, tmp_path: Path) -> None:
    model = tiny_repository / "lostgan_128"
    done = cli("generate", *EXAMPLES, "--model", model, "--out", tmp_path, check=True)
    assert "untrained" in done.stderr
    kinds = (".png", ".objects.png", ".overlay.png")
    expected = [f"{path.stem}{kind}" for path in EXAMPLES for kind in kinds] + ["contact-sheet.png"]
    assert written(tmp_path) == sorted(expected)
    assert done.stdout.split() == [str(tmp_path / name) for name in expected]
    assert Image.open(tmp_path / "coast.png").size == (128, 128)


def test_python_api_gives_the_same_picture(cli: Cli, tiny_repository: Path, tmp_path: Path) -> None:
    cli("generate", EXAMPLES[0], "--model", tiny_repository / "lostgan_128", "--out", tmp_path, check=True)
    (result,) = generate([Layout.load(EXAMPLES[0])], OnnxRunner(tiny_repository / "lostgan_128"))
    assert result.image is not None
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"{EXAMPLES[0].stem}.png")), result.image)


def test_samples_are_the_seeds_that_follow(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    cli("generate", EXAMPLES[0], "--model", tiny_model, "--out", tmp_path, "--samples", 2, "--seed", 40, check=True)
    cli("generate", EXAMPLES[0], "--model", tiny_model, "--out", tmp_path / "one", "--seed", 41, "--masks", check=True)
    stem = EXAMPLES[0].stem
    first, second = (np.asarray(Image.open(tmp_path / f"{stem}.seed{seed}.png")) for seed in (40, 41))
    alone = np.asarray(Image.open(tmp_path / "one" / f"{stem}.png"))
    assert np.abs(second.astype(int) - alone).max() <= 1
    assert np.abs(first.astype(int) - second).max() > 10
    objects = json.loads(EXAMPLES[0].read_text())["objects"]
    assert len(list((tmp_path / "one").glob("*.mask-*.png"))) == len(objects)


def test_json_lines_on_standard_input(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    lines = "\n".join(json.dumps({"seed": seed, "objects": [SKY]}) for seed in range(12))
    done = cli("generate", "-", "--model", tiny_model, "--out", tmp_path, stdin=lines, check=True)
    assert "contact-sheet.png" in done.stdout
    assert len(list(tmp_path.glob("stdin-*.overlay.png"))) == 12


def test_labels_lists_a_vocabulary(cli: Cli) -> None:
    assert cli("labels", check=True).stdout.split()[:2] == ["sky", "mountain"]
    assert len(cli("labels", "--vocabulary", "coco-stuff", check=True).stdout.splitlines()) == 171
    fails_in_one_line(cli("labels", "--vocabulary", "cocoa"), ["unknown vocabulary 'cocoa'", "coco-stuff"])


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ("not json", ["bad.json", "not JSON"]),
        ({"objects": [{"label": "sjy", "box": [0, 0, 1, 1]}]}, ["bad.json: objects[0].label", "'sjy'", "nearest: sky"]),
        ({"objects": [{"label": "sky", "box": [0, 0, 2, 1]}]}, ["bad.json: objects[0].box", "outside the canvas"]),
        ({"objects": [{"label": "sky", "box": [0, 0, 0, 1]}]}, ["bad.json: objects[0].box", "no area"]),
        ({"objects": [{"label": "sky", "box": [float("nan"), 0, 1, 1]}]}, ["objects[0].box[0]", "finite"]),
        ({"objects": [SKY] * 13}, ["bad.json: objects: 13 of them", "room for 12", "--max-objects 13"]),
        ({"objects": [SKY | {"id": "a"}] * 2}, ["bad.json: objects[0].id 'a'", "2 times"]),
    ],
)
def test_a_bad_layout_is_one_line_and_writes_nothing(
    layout: Any, words: list[str], cli: Cli, tiny_model: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(layout if isinstance(layout, str) else json.dumps(layout))
    done = cli("generate", EXAMPLES[0], bad, "--model", tiny_model, "--out", tmp_path / "out")
    fails_in_one_line(done, words)
    assert not (tmp_path / "out").exists()


def test_missing_layouts_and_twins_are_named(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    fails_in_one_line(cli("generate", tmp_path / "no.json", "--model", tiny_model), ["no.json", "no such file"])
    (tmp_path / "a").mkdir()
    twin = tmp_path / "a" / EXAMPLES[0].name
    twin.write_bytes(EXAMPLES[0].read_bytes())
    done = cli("generate", EXAMPLES[0], twin, "--model", tiny_model, "--out", tmp_path / "out")
    fails_in_one_line(done, [twin, EXAMPLES[0], "both would write", "rename one"])


@pytest.mark.parametrize(
    ("first", "second", "options", "file"),
    [
        ("a", "a.objects", (), "a.objects.png"),
        ("a", "A", (), "A.png"),
        ("a", "contact-sheet", (), "contact-sheet.png"),
        ("a", "a.mask-00-sky-1", ("--masks",), "a.mask-00-sky-1.png"),
    ],
)
def test_layouts_that_would_write_the_same_file_are_named(
    first: str, second: str, options: tuple[str, ...], file: str, cli: Cli, tiny_model: Path, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{first}.json", tmp_path / f"{second}.json"]
    for path in paths:
        path.write_text(json.dumps({"objects": [SKY]}))
    done = cli("generate", *paths, *options, "--model", tiny_model, "--out", tmp_path / "out")
    fails_in_one_line(done, [paths[1], f"both would write {file}"])
    assert not (tmp_path / "out").exists()


def test_seeds_and_samples_are_bounded(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    model = ("--model", tiny_model, "--out", tmp_path)
    assert f"0<=x<={MAX_SEED}" in cli("generate", EXAMPLES[0], *model, "--seed", MAX_SEED + 1).stderr
    assert "1<=x<=10000" in cli("generate", EXAMPLES[0], *model, "--samples", 10_001).stderr
    cli("generate", EXAMPLES[0], *model, "--seed", MAX_SEED, "--samples", 2, check=True)
    assert f"{EXAMPLES[0].stem}.seed0.png" in written(tmp_path)  # the seed after the last


def test_standard_input_that_is_not_utf8_is_refused_as_a_file_would_be(tiny_model: Path, tmp_path: Path) -> None:
    layout = b'{"objects": [{"label": "sky", "box": [0, 0, 1, 1], "id": "caf\xe9"}]}'
    command = [LOSTGAN_SERVE, "generate", "-", "--model", str(tiny_model), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, input=layout, capture_output=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: standard input: not UTF-8")


def test_an_id_outside_the_locale_is_refused_before_anything_is_generated(tiny_model: Path, tmp_path: Path) -> None:
    layout = tmp_path / "a.json"
    layout.write_text('{"objects": [{"label": "sky", "box": [0, 0, 1, 1], "id": "\\u7a7a"}]}')
    command = [
        LOSTGAN_SERVE,
        "generate",
        str(layout),
        "--model",
        str(tiny_model),
        "--masks",
        "--out",
        str(tmp_path / "o"),
    ]
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command += ["--out", str(tmp_path / "o")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    fails_in_one_line(done, ["a.json", "cannot be a file's name in this locale"])
    assert not (tmp_path / "o").exists()


def test_standard_input_closed_or_named_twice(cli: Cli, tiny_model: Path) -> None:
    fails_in_one_line(cli("generate", "-", "-", "--model", tiny_model, stdin="{}"), ["-", "read only once"])
    command = f"{quote(LOSTGAN_SERVE)} generate - --model {tiny_model} <&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    fails_in_one_line(done, ["standard input is closed"])


STUCK = """
import sys, time
from lostgan_serve.commands import main
from lostgan_serve.runners.onnxrt import OnnxRunner
def run(self, tensors, outputs):
    print("painting", flush=True)
    time.sleep(60)
OnnxRunner.run = run
main(sys.argv[1:])
"""


def test_ctrl_c_does_not_wait_for_batches_in_flight(tiny_model: Path, tmp_path: Path) -> None:
    arguments = ["generate", EXAMPLES[0], "--model", tiny_model, "--out", tmp_path / "out"]
    command = [sys.executable, "-c", STUCK, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "painting\n"
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 5
    assert process.returncode == 128 + signal.SIGINT
    assert errors.splitlines()[-1] == "stopped"
    assert not (tmp_path / "out").exists()


def test_models_that_are_none_are_named(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    cut, foreign, folder = tmp_path / "cut.onnx", tmp_path / "foreign.onnx", tmp_path / "lostgan_128"
    cut.write_bytes(tiny_model.read_bytes()[:50_000])
    foreign.write_bytes(tiny_model.read_bytes().replace(b"lostgan_serve.manifest", b"somebody_else.manifest"))
    folder.mkdir()
    for model, words in (
        (tmp_path / "none.onnx", ["none.onnx", "no such model", "lostgan-serve export"]),
        (cut, ["cut.onnx", "truncated or not an ONNX model"]),
        (foreign, ["foreign.onnx", "not a lostgan-serve model"]),
        (folder, ["no exported version", "lostgan-serve export"]),
    ):
        fails_in_one_line(cli("generate", EXAMPLES[0], "--model", model, "--out", tmp_path / "out"), words)
    assert not (tmp_path / "out").exists()


def test_standard_output_on_a_full_disk_is_one_line(cli: Cli) -> None:
    command = [LOSTGAN_SERVE, "labels"]
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, "error: standard output: No space left on device\n")


@pytest.mark.parametrize("closed", ["1", "2"])
def test_outputs_that_the_shell_closed_are_not_missed(closed: str, tiny_model: Path, tmp_path: Path) -> None:
    lines = tmp_path / "many.jsonl"
    lines.write_text("".join(f"{json.dumps({'objects': [SKY], 'seed': seed})}\n" for seed in range(10)))
    command = f"{quote(LOSTGAN_SERVE)} generate {lines} --model {tiny_model} --only image --out {tmp_path / 'out'}"
    command += f" {closed}>&-"
    assert subprocess.run(["sh", "-c", command], timeout=60).returncode == 0
    assert len(written(tmp_path / "out")) == 10


def test_a_reader_that_has_enough_is_no_error() -> None:
    command = f"{quote(LOSTGAN_SERVE)} labels --vocabulary coco-stuff | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("person\n", "")


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_names_that_are_not_utf8_are_written_and_named(locale: str, tiny_model: Path, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.json"
    Path(os.fsdecode(name)).write_bytes(EXAMPLES[0].read_bytes())
    command = [LOSTGAN_SERVE.encode(), b"generate", name, b"--model"]
    done = subprocess.run(
        [*command, os.fsencode(tiny_model), b"--out", os.fsencode(tmp_path / "out")],
        capture_output=True,
        timeout=60,
        env=os.environ | {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    assert sorted(os.fsencode(path.name) for path in (tmp_path / "out").iterdir()) == [
        b"caf\xe9.objects.png",
        b"caf\xe9.overlay.png",
        b"caf\xe9.png",
    ]


def test_text_outside_the_locale_is_escaped(tmp_path: Path) -> None:
    layout = tmp_path / "bad.json"
    layout.write_text('{"objects": [{"label": "Himmel \\u00fc\\u2603", "box": [0, 0, 1, 1], "idd": "\\u2603"}]}')
    command = [LOSTGAN_SERVE, "generate", str(layout)]
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    fails_in_one_line(done, ["objects[0].idd", "unknown field"])


@pytest.mark.skipif(os.geteuid() != 0, reason="takes the right to read everything away from root")
@pytest.mark.parametrize("place", ["layout", "model", "out"])
def test_paths_that_may_not_be_read_are_one_line(place: str, tiny_repository: Path, tmp_path: Path) -> None:
    private = tmp_path / "private"
    shutil.copytree(tiny_repository, private / "repository")
    shutil.copy(EXAMPLES[0], private / "layout.json")
    paths = {"layout": EXAMPLES[0], "model": tiny_repository / "lostgan_128", "out": tmp_path / "out"}
    inside = {"layout": "layout.json", "model": "repository/lostgan_128", "out": "out"}
    paths[place] = private / inside[place]
    os.chown(private, 65534, 65534)
    private.chmod(0o700)
    command = [LOSTGAN_SERVE, "generate", str(paths["layout"])]
    without = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
    done = subprocess.run(
        [*without, *command, "--model", str(paths["model"]), "--out", str(paths["out"])],
        capture_output=True,
        text=True,
        timeout=60,
    )
    fails_in_one_line(done, [private, "Permission denied"])


def test_arguments_that_are_files_complete_to_files() -> None:
    """Click asks the shell for files by answering "file"."""
    for words, place in (("client ", 2), ("generate ", 2), ("generate --model ", 3), ("generate a.json --out ", 4)):
        environment = {"COMP_WORDS": f"lostgan-serve {words}", "COMP_CWORD": str(place)}
        done = subprocess.run(
            [LOSTGAN_SERVE],
            capture_output=True,
            text=True,
            timeout=60,
            env=os.environ | environment | {"_LOSTGAN_SERVE_COMPLETE": "bash_complete"},
        )
        assert done.stdout.partition(",")[0] in ("file", "dir"), words


def test_output_that_cannot_be_written_is_named(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    """Before the model is even looked for."""
    (tmp_path / "file").write_text("x")
    done = cli("generate", EXAMPLES[0], "--model", tmp_path / "none.onnx", "--out", tmp_path / "file" / "out")
    fails_in_one_line(done, [tmp_path / "file" / "out", "cannot write", "choose another folder"])


def test_a_full_disk_leaves_no_half_file(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    """The kernel refuses to let a file grow beyond a limit, in the middle of a write, as a full disk does."""
    done = cli("generate", EXAMPLES[0], "--model", tiny_model, "--out", tmp_path / "out", file_limit_bytes=1000)
    fails_in_one_line(done, ["cannot write (File too large)", "free some space"])
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_version(cli: Cli) -> None:
    assert cli("--version", check=True).stdout.startswith("lostgan-serve, version 0.")
    assert "No such command 'exprt'" in cli("exprt").stderr


def test_readme_python_example_runs(tiny_repository: Path, tmp_path: Path) -> None:
    """The five lines in the README, word for word, on this model."""
    readme = (ROOT / "README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0]
    code = code.replace('"triton_repo/lostgan_128"', repr(str(tiny_repository / "lostgan_128")))
    code = code.replace('"examples/coast.json"', repr(str(ROOT / "examples" / "coast.json")))
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=60)
    assert Image.open(tmp_path / "coast.png").size == (128, 128)
