"""`synthesize` makes a data set exactly once, whatever happens on the way."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import EXAMPLES, Cli, fails_in_one_line, run_cli, tree
from lostgan_serve.contract import Tensors
from lostgan_serve.errors import OutputError
from lostgan_serve.runners import Runner
from lostgan_serve.synthesize.making import synthesize
from lostgan_serve.synthesize.recipe import Choices
from lostgan_serve.synthesize.store import open_store
from servers import until
from synthesizing import FORMATS, LAYOUTS, a_plan, instances

pytestmark = pytest.mark.slow


def test_the_same_call_does_nothing_more_and_another_is_refused(made: Path, synthesizer: Runner) -> None:
    before, times = tree(made), {path: path.stat().st_mtime_ns for path in made.rglob("*.png")}
    synthesize(a_plan(synthesizer), str(made), synthesizer, Choices(FORMATS))
    assert tree(made) == before
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*.png")} == times
    with pytest.raises(OutputError, match=r"holds another data set \(its plan differ"):
        synthesize(a_plan(synthesizer, seed=1), str(made), synthesizer, Choices(FORMATS))
    with pytest.raises(OutputError, match="its formats differ"):
        synthesize(a_plan(synthesizer), str(made), synthesizer, Choices(("coco",)))
    assert tree(made) == before


def test_options_of_a_run_without_any_shard_bind_nobody(synthesizer: Runner, tmp_path: Path) -> None:
    folder = str(tmp_path / "set")
    with pytest.raises(OutputError, match="gone"):
        synthesize(a_plan(synthesizer), folder, Broken(synthesizer, 0))
    synthesize(a_plan(synthesizer, seed=1, shard_size=7), folder, synthesizer, Choices(("yolo",)))
    with pytest.raises(OutputError, match="gone"):
        synthesize(a_plan(synthesizer, seed=2), folder, Broken(synthesizer, 0), Choices(("yolo",), append=True))
    counts = synthesize(a_plan(synthesizer, seed=3), folder, synthesizer, Choices(("yolo",), append=True))
    assert counts["images"] == 14
    runs = json.loads((tmp_path / "set" / "dataset.json").read_text("utf-8"))
    assert [run["seed"] for run in runs] == [1, 3]


def test_two_processes_that_publish_a_shard_leave_the_first_one_s(tmp_path: Path) -> None:
    """Ray may start a shard a second time where it takes a worker for lost."""
    store = open_store(str(tmp_path / "set"))
    with store.staged(["images/00000", "parts/00000.jsonl"], once=True) as late:
        for text in ("first", "again"):
            with store.staged(["images/00000", "parts/00000.jsonl"], once=True) as stage:
                _write_shard(stage, text)
        _write_shard(late, "late")
        (tmp_path / "set" / "images" / "00000" / "more.txt").write_text("of the first", "utf-8")
    found = {path.name: path.read_text("utf-8") for path in (tmp_path / "set").rglob("*") if path.is_file()}
    assert found["00000.jsonl"] == found["0.txt"] == "first"
    assert found["more.txt"] == "of the first"


def _write_shard(stage: Path, text: str) -> None:
    for name in ("images/00000/0.txt", "parts/00000.jsonl"):
        (stage / name).parent.mkdir(parents=True, exist_ok=True)
        (stage / name).write_text(text, "utf-8")


def test_files_of_others_are_left_alone(synthesizer: Runner, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", "utf-8")
    with pytest.raises(OutputError, match=r"holds other files \(mine.txt"):
        synthesize(a_plan(synthesizer), str(tmp_path), synthesizer)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


class Broken:
    """A runner that fails, or is killed as it were, at its n-th batch."""

    def __init__(self, inner: Runner, after: int) -> None:
        self._inner, self._left = inner, after
        self.manifest, self.concurrency = inner.manifest, 1

    def run(self, tensors: Tensors, outputs: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise OutputError("gone")
        return self._inner.run(tensors, outputs)

    def close(self) -> None:
        """Nothing to close."""


@pytest.mark.parametrize("after", range(4))
def test_a_call_that_failed_goes_on(after: int, made: Path, synthesizer: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    with pytest.raises(OutputError, match="gone"):
        synthesize(a_plan(synthesizer), str(folder), Broken(synthesizer, after), Choices(FORMATS))
    assert not (folder / "annotations").exists()
    assert not list(folder.glob(".*"))
    synthesize(a_plan(synthesizer), str(folder), synthesizer, Choices(FORMATS))
    assert tree(folder) == tree(made)


def test_kills_at_random_moments_change_nothing(tiny_model: Path, tmp_path: Path) -> None:
    """SIGKILL of the command, again and again."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [
        str(Path(sys.executable).with_name("lostgan-serve")),
        "synthesize",
        *map(str, EXAMPLES),
        "--model",
        str(tiny_model),
    ]
    command += [
        "--per-layout",
        "40",
        "--shard-size",
        "7",
        "--format",
        ",".join(FORMATS),
        "--filter",
        "duplicates=2",
        "--out",
    ]
    subprocess.run([*command, str(whole)], check=True, capture_output=True, timeout=300)
    choice = random.Random(0)

    def shards() -> int:
        return len(list(killed.glob("parts/*")))

    for _ in range(3):
        there = shards()
        process = subprocess.Popen([*command, str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda there=there, process=process: shards() > there or process.poll() is not None)  # type: ignore[misc]
        time.sleep(0.1 * choice.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert 3 <= shards() < len(list(whole.glob("parts/*")))  # in mid-run
    subprocess.run([*command, str(killed)], check=True, capture_output=True, timeout=300)
    assert tree(killed) == tree(whole)


@pytest.mark.parametrize("damage", [b"", b"{}\n", b'{"counts":1}\n', b"\xff", None])
def test_a_damaged_part_is_named(damage: bytes | None, made: Path, synthesizer: Runner, tmp_path: Path) -> None:
    """Damage None: the end is cut off. Without the part, its shard is made again as it was."""
    folder = Path(shutil.copytree(made, tmp_path / "set"))
    part = folder / "parts" / "00001.jsonl"
    part.write_bytes(part.read_bytes()[:-100] if damage is None else damage)
    plan = a_plan(synthesizer, LAYOUTS[:2])
    with pytest.raises(OutputError, match=r"parts/00001.jsonl: (damaged|cannot be read)"):
        synthesize(plan, str(folder), synthesizer, Choices(FORMATS, append=True))
    part.unlink()
    synthesize(a_plan(synthesizer), str(folder), synthesizer, Choices(FORMATS))
    assert part.read_bytes() == (made / "parts" / "00001.jsonl").read_bytes()


def test_two_at_a_time_are_refused(synthesizer: Runner, tmp_path: Path) -> None:
    from lostgan_serve.synthesize.store import open_store

    with open_store(str(tmp_path / "set")).locked(), pytest.raises(OutputError, match="another process writes to it"):
        synthesize(a_plan(synthesizer), str(tmp_path / "set"), synthesizer)


def test_appended_runs_merge_with_ids_that_stay(made: Path, synthesizer: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(made, folder)
    first, again = instances(folder), a_plan(synthesizer, LAYOUTS[:3], seed=5)
    synthesize(again, str(folder), synthesizer, Choices(FORMATS, append=True))
    both = instances(folder)
    assert both["images"][:14] == first["images"]
    assert both["annotations"][: len(first["annotations"])] == first["annotations"]
    assert len(both["images"]) == 20
    for records in (both["images"], both["annotations"]):
        assert len({record["id"] for record in records}) == len(records)
    assert all((folder / "images" / record["file_name"]).is_file() for record in both["images"])
    before = tree(folder)
    synthesize(again, str(folder), synthesizer, Choices(FORMATS, append=True))  # it is there: nothing is appended twice
    synthesize(a_plan(synthesizer), str(folder), synthesizer, Choices(FORMATS))
    assert tree(folder) == before
    with pytest.raises(OutputError, match="its image is png, and --append cannot change it to webp"):
        synthesize(a_plan(synthesizer, seed=9), str(folder), synthesizer, Choices(FORMATS, "webp", append=True))


def test_a_full_disk_is_one_line_and_the_same_command_finishes(
    cli: Cli, tiny_model: Path, made: Path, tmp_path: Path
) -> None:
    """Files may have 4 KiB here, as on a disk with no more space; a tar of images has more."""
    command = ["synthesize", *EXAMPLES, "--model", tiny_model, "--per-layout", 2, "--shard-size", 4]
    command += ["--format", ",".join(FORMATS), "--out", tmp_path / "set"]
    fails_in_one_line(run_cli(*command, file_limit_bytes=4096), ["cannot write", "free some space"])
    assert not (tmp_path / "set" / "annotations").exists()
    assert not list((tmp_path / "set").glob(".*"))
    cli(*command, check=True)
    assert tree(tmp_path / "set") == tree(made)


def test_a_server_that_dies_in_mid_run(tiny_repository: Path, cli: Cli, tmp_path: Path) -> None:
    from servers import serving

    folder = tmp_path / "set"
    command = ["synthesize", *EXAMPLES, "--per-layout", 30, "--shard-size", 10, "--out", folder, "--patience", 0]
    process, (_, grpc, _) = serving(tiny_repository)
    running = subprocess.Popen(
        [Path(sys.executable).with_name("lostgan-serve"), *map(str, command), "--url", grpc],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: (folder / "parts").is_dir())
    process.kill()
    process.wait()
    out, err = running.communicate(timeout=60)
    fails_in_one_line(subprocess.CompletedProcess([], running.returncode, out, err), [grpc])
    parts = len(list((folder / "parts").iterdir()))
    assert 0 < parts < 21
    assert not (folder / "annotations").exists()
    process, (_, grpc, _) = serving(tiny_repository)
    try:
        done = cli(*command, "--url", grpc, check=True)
    finally:
        process.terminate()
        process.wait()
    assert f"{parts} of 21 shards are there already" in done.stderr
    assert [record["plan_row"] for record in instances(folder)["images"]] == list(range(210))
