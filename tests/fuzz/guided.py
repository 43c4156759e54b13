"""Runs of one target that atheris guides by the lines that its inputs reach: python -m fuzz.guided TARGET COUNT

atheris is no dependency of this project: pip install atheris==3.0.0
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]
import click

with atheris.instrument_imports(include=["lostgan_serve", "lostgan_train", "json"]):
    from fuzz.campaign import Row, keep, new_materials, table
    from fuzz.guard import Find, tried
    from fuzz.mutations import of_bytes
    from fuzz.registry import TARGETS
    from fuzz.targets import Fuzzed

_LONGEST = 1 << 20


@click.command()
@click.argument("name", metavar="TARGET", type=click.Choice(list(TARGETS)))
@click.argument("count", default=20_000, type=click.IntRange(1))
@click.option("--finds", default=Path("out/fuzz"), show_default=True, type=click.Path(path_type=Path), help="Folder.")
def guided(name: str, count: int, finds: Path) -> None:
    """Try COUNT inputs of a target, each a change of one that reached new lines. Prints a table."""
    with (
        new_materials() as materials,
        TemporaryDirectory(prefix="fuzz-corpus-") as corpus,
        atheris.instrument_imports(include=["lostgan_serve", "lostgan_train"]),
    ):  # those of lazy imports
        fuzzed, row, start = TARGETS[name](materials), Row(name), time.monotonic()
        for number, seed in enumerate(fuzzed.seeds):
            (Path(corpus) / str(number)).write_bytes(seed)

        def try_one(data: bytes) -> None:
            row.tried += 1
            try:
                refused = tried(fuzzed.target, data)
            except Find as find:
                row.kinds[find.kind] += 1
                keep(finds / name, find, data, row.tried)
            else:
                row.refused, row.accepted = row.refused + (refused is not None), row.accepted + (refused is None)
            if row.tried == count:  # libFuzzer ends the process, and would say nothing of this
                row.took_s = time.monotonic() - start
                print(table([row]), flush=True)
                os._exit(bool(row.finds))

        # libFuzzer's own alarm would be ours
        options = [sys.argv[0], corpus, f"-max_len={_LONGEST}", "-timeout=0", "-rss_limit_mb=0"]
        atheris.Setup(options, try_one, custom_mutator=lambda data, size, seed: _changed(fuzzed, data, size, seed))
        atheris.Fuzz()


def _changed(fuzzed: Fuzzed, data: bytes, most: int, seed: int) -> bytes:
    """A change of an input; of its bytes alone where it is no longer of the form that the target's changes need."""
    random = Random(seed)
    try:
        changed = fuzzed.mutate(random, [data, *fuzzed.seeds[:1]])
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        changed = of_bytes(random, [data or b"{}"])
    return changed[:most]


if __name__ == "__main__":
    guided()
