"""The part of a shard: its records as lines of JSON, which the files for all shards take as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from lostgan_serve.files import parse_json
from lostgan_serve.synthesize.store import compact_json

PARTS = "parts"
"""The folder of the parts."""


@dataclass(frozen=True)
class Part:
    """counts: images, and rejections by reason. records: a line of JSON for each record, in COCO's lists by name."""

    counts: Mapping[str, int]
    records: Mapping[str, Sequence[str]]

    def text(self) -> str:
        """The file's text: a line with the counts and the length of each list, then the lists."""
        head = {"counts": dict(sorted(self.counts.items())), "records": {k: len(v) for k, v in self.records.items()}}
        lines = [line for records in self.records.values() for line in records]
        return "\n".join([compact_json(head), *lines, ""])

    @classmethod
    def parsed(cls, text: str) -> Part:
        """The part of a file's text. Raises ValueError where lines are missing, or there are more."""
        first, *lines = text.split("\n")
        head: Any = parse_json(first)
        try:
            lengths = dict(head["records"])
            counts = dict(head["counts"])
            whole = len(lines) == sum(lengths.values()) + 1 and not lines.pop()
        except (TypeError, KeyError, IndexError) as error:
            raise ValueError("the first line is no part's") from error
        if not whole:
            raise ValueError("lines are missing")
        rest = iter(lines)
        return cls(counts, {name: list(islice(rest, length)) for name, length in lengths.items()})
