"""Files and new folders: whole or not there, whatever happens between two renames, and nothing left behind."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from lostgan_serve.errors import OutputError
from lostgan_serve.files import new_folder, sweep, write_file


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


def test_old_leftovers_are_swept_and_young_ones_are_not(tmp_path: Path) -> None:
    for name, age_s in ((f"{0:016x}", 4000), (f"{1:016x}", 3000), ("notes", 4000)):
        left = tmp_path / f".tmp-{name}"
        (left / "new").mkdir(parents=True)
        os.utime(left, (time.time() - age_s,) * 2)
    fill(tmp_path / "v", "x")
    assert names(tmp_path) == [f".tmp-{1:016x}", ".tmp-notes", "v"]  # notes: not ours


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


def test_what_killed_processes_left_is_swept_after_an_hour(tmp_path: Path) -> None:
    old, fresh, kept = tmp_path / f".tmp-{0:016x}", tmp_path / f".tmp-{1:016x}", tmp_path / "a.png"
    for path in (old, fresh, kept):
        path.write_bytes(b"x")
    for path in (old, kept):
        os.utime(path, (time.time() - 7200,) * 2)
    sweep(tmp_path)
    assert names(tmp_path) == [fresh.name, kept.name]


@pytest.mark.parametrize(
    ("name", "fix"), [("n" * 300, "give it a shorter name"), ("file/a.png", "choose another folder")]
)
def test_a_failed_write_says_how_to_mend_it(tmp_path: Path, name: str, fix: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=fix):
        write_file(tmp_path / name, b"x")
