"""New folders: whole or not there, whatever happens between two renames, and nothing left behind."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from lostgan_serve.errors import OutputError
from lostgan_serve.files import new_folder


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
    for name, age_s in (("old", 4000), ("young", 3000)):
        left = tmp_path / f".tmp-{name}"
        (left / "new").mkdir(parents=True)
        os.utime(left, (time.time() - age_s,) * 2)
    fill(tmp_path / "v", "x")
    assert names(tmp_path) == [".tmp-young", "v"]
