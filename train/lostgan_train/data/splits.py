"""Splits of data sets, and the check that a set is of the one that is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lostgan_serve.errors import DataError
from lostgan_train.data.fields import Problem, member
from lostgan_train.synthetic.dataset import DESCRIPTION, FIRST_HELD_OUT_SEED

SPLITS = ("train", "val", "test")


def check_split(document: Any, path: Path, split: str) -> None:
    """Raise DataError for a set that is not that split: scenes from held-out seeds are "val", all else is "train"."""
    seeds = _drawn_seeds(document, path)
    if split == "train":
        if seeds and seeds[-1] >= FIRST_HELD_OUT_SEED:
            raise DataError(
                f"{path}: info.plan: has seeds up to {seeds[-1]}, and those from {FIRST_HELD_OUT_SEED} on are held out "
                "for evaluation; train on scenes of lower seeds, or read these as split 'val'"
            )
    elif not seeds:
        raise DataError(f"{path}: a COCO-format set is all one split; keep the images of {split!r} in another folder")
    elif split != "val" or seeds[0] < FIRST_HELD_OUT_SEED:
        raise DataError(
            f"{path}: info.plan: scenes from seed {seeds[0]} on are no split {split!r}; 'val' are those from seed "
            f"{FIRST_HELD_OUT_SEED} on, which `lostgan-serve scenes --held-out` draws"
        )


def _drawn_seeds(document: Any, path: Path) -> range | None:
    """The seeds of a folder of drawn scenes; None for any other set. Raises DataError for a plan without them."""
    info = document.get("info") if isinstance(document, dict) else None
    if not isinstance(info, dict) or info.get("description") != DESCRIPTION:
        return None
    try:
        first, count = (member(info.get("plan"), key, int, "1000") for key in ("first_seed", "count"))
    except Problem as problem:
        raise DataError(f"{path}: info.plan.{problem.key}: {problem}; draw the scenes again") from None
    return range(first, first + max(count, 1))
