"""Files and new folders: whole or not there, whatever happens between two renames, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lostgan_serve.errors import InputError, OutputError
from lostgan_serve.files import new_folder, read_file, scratch_folder, sweep, write_file


def fill(path: Path, text: str) -> None:
    with new_folder(path) as folder:
        (folder / "a").write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_the_old_folder_comes_back_where_the_second_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    fill(tmp_path / "v", "first")
    rename = Path.rename

    def fail_on_new(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_on_new)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        fill(tmp_path / "v", "second")
    assert (tmp_path / "v" / "a").read_text() == "first"
    assert names(tmp_path) == ["v"]


def test_what_another_process_made_meanwhile_is_left_alone(tmp_path: Path) -> None:
    def both() -> None:
        with new_folder(tmp_path / "v") as folder:
            (folder / "a").write_text("loser")
            fill(tmp_path / "v", "winner")

    with pytest.raises(OutputError, match=r"v: another process has made it meanwhile; run the command again"):
        both()
    assert (tmp_path / "v" / "a").read_text() == "winner"
    assert names(tmp_path) == ["v"]


def test_only_parents_that_it_made_are_removed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()

    def fail(path: Path) -> None:
        with new_folder(path):
            raise KeyboardInterrupt

    for path in (tmp_path / "there" / "v", tmp_path / "made" / "made" / "v"):
        with pytest.raises(KeyboardInterrupt):
            fail(path)
    assert names(tmp_path) == ["there"]


KILLED = """
import signal, sys
from pathlib import Path
from lostgan_serve.files import new_folder, scratch_folder, write_file
kind, folder = sys.argv[1], Path(sys.argv[2])
def wait(*_):
    print("within", flush=True)
    signal.pause()
if kind == "file":
    Path.replace = wait  # the bytes are there, under the temporary name
    write_file(folder / "a", b"x")
elif kind == "scratch":
    with scratch_folder() as new:
        (new / "b").write_text("x")
        wait()
else:
    with new_folder(folder / "a") as new:
        (new / "b").write_text("x")
        wait()
"""


@pytest.mark.parametrize("kind", ["file", "folder", "scratch"])
def test_what_a_killed_process_left_is_swept_by_the_next_and_what_one_writes_is_not(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    writer = subprocess.Popen([sys.executable, "-c", KILLED, kind, tmp_path], stdout=subprocess.PIPE, env=environment)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"within\n"
    (left,) = names(tmp_path)
    sweep(tmp_path)
    assert names(tmp_path) == [left]  # its writer lives
    writer.kill()
    writer.communicate(timeout=30)
    if kind == "file":
        write_file(tmp_path / "v", b"x")
    elif kind == "scratch":
        with scratch_folder() as folder:
            assert list(folder.iterdir()) == []
            (folder / "a").write_text("x")
            assert names(tmp_path) == [folder.name]
        write_file(tmp_path / "v", b"x")
    else:
        fill(tmp_path / "v", "x")
    assert names(tmp_path) == ["v"]


def test_where_nothing_can_be_locked_the_leftovers_of_the_last_hour_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", fail)
    for name, age_s in ((f"{0:016x}", 4000), (f"{1:016x}", 3000), ("notes", 4000)):
        left = tmp_path / f".tmp-{name}"
        (left / "new").mkdir(parents=True)
        os.utime(left, (time.time() - age_s,) * 2)
    fill(tmp_path / "v", "x")
    assert names(tmp_path) == [f".tmp-{1:016x}", ".tmp-notes", "v"]  # notes: not ours


def test_what_is_new_and_empty_is_not_swept(tmp_path: Path) -> None:
    """Its writer may not have locked it yet."""
    (tmp_path / f".tmp-{0:016x}").touch()
    (tmp_path / f".tmp-{1:016x}").mkdir()
    sweep(tmp_path)
    assert len(names(tmp_path)) == 2
    for left in tmp_path.iterdir():
        os.utime(left, (time.time() - 4000,) * 2)
    sweep(tmp_path)
    assert names(tmp_path) == []


def test_a_folder_is_swept_once_in_a_process(tmp_path: Path) -> None:
    write_file(tmp_path / "a", b"x")
    (tmp_path / f".tmp-{0:016x}").write_bytes(b"x")
    write_file(tmp_path / "b", b"x")
    assert names(tmp_path) == [f".tmp-{0:016x}", "a", "b"]


def test_a_file_over_its_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1000)
    assert read_file(tmp_path / "a", 1000) == b"x" * 1000
    for path in (tmp_path / "a", Path("/dev/zero")):
        with pytest.raises(InputError, match=rf"^{path}: is larger than 0 MiB, the most that such a file has$"):
            read_file(path, 999)
    with pytest.raises(InputError, match="b: cannot be read"):
        read_file(tmp_path / "b", 999)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"file/a\.png: cannot write \(File exists\)"):
        write_file(tmp_path / "file" / "a.png", b"x")
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OutputError, match=r"a\.png: cannot write"):
        write_file(tmp_path / "a.png", b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "file"]


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with new_folder(tmp_path / "v") as folder:
        (folder / "a").write_text("first")
        assert not (tmp_path / "v").exists()
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "v") as folder:
        (folder / "a").write_text("second")
        raise KeyboardInterrupt
    assert (tmp_path / "v" / "a").read_text() == "first"
    with new_folder(tmp_path / "v") as folder:
        (folder / "b").write_text("third")
    assert [path.name for path in (tmp_path / "v").iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["v"]


@pytest.mark.parametrize(
    ("name", "fix"), [("n" * 300, "give it a shorter name"), ("file/a.png", "choose another folder")]
)
def test_a_failed_write_says_how_to_mend_it(tmp_path: Path, name: str, fix: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=fix):
        write_file(tmp_path / name, b"x")
