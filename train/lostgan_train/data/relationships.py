"""Visual Genome's relationships, of which layouts know nothing, but by which the paper chooses images.

An image stays if it has 1 to 30 of them. A relationship counts if both its objects are kept and its predicate is
frequent, which is counted in the training split alone. The rules are Johnson's (sg2im's preprocessing).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lostgan_train.data.fields import Id, Problem, as_id
from lostgan_train.data.json_file import Json
from lostgan_train.data.summary import Summary
from lostgan_train.data.visual_genome_files import items_by_image, name_of_id, read_aliases

FEWEST_RELATIONSHIPS, MOST_RELATIONSHIPS = 1, 30
"""Relationships in an image."""

_FIELDS = ("predicate", "subject", "object")


class Relationships:
    """The relationships of each image."""

    def __init__(self, folder: Path, summary: Summary) -> None:
        """Read relationships.json and relationship_alias.txt. Raises DataError."""
        self.path, self.summary = folder / "relationships.json", summary
        self.aliases = read_aliases(folder / "relationship_alias.txt", "predicates", summary)
        self.by_image = items_by_image(self.path, "relationships", _slim, summary)

    def count(self, kept: Mapping[int, set[Id | None]], training: set[int], split: str, least: int) -> Counter[int]:
        """The number of relationships that count in each image.

        kept: the ids of each image's objects that are kept, for the images of the training split and of `split`.
        least: uses of a predicate in the training split.
        """
        found = {key: list(self._between(key, ids)) for key, ids in kept.items()}
        uses = Counter(self._plain(name) for key in training for name in found.get(key, ()))
        frequent = {name for name, count in uses.items() if count >= least}
        # Johnson's script makes predicates plain in the training split alone and takes all others as they are written,
        # capitals and synonyms included. The paper's validation and test sets were made so.
        plain = self._plain if split == "train" else str
        return Counter({key: sum(plain(name) in frequent for name in names) for key, names in found.items()})

    def _between(self, key: int, ids: set[Id | None]) -> Iterable[str]:
        """The predicates between objects of `ids` in an image, as they are written."""
        for index, item in enumerate(self.by_image.get(key, ())):
            predicate, *ends = item if isinstance(item, tuple) else (None,) * 3
            if predicate is None or None in ends:
                field = _FIELDS[[predicate, *ends].index(None)]
                problem = Problem(field, f"relationship without {field}", f"no {field} that can be read")
                self.summary.add_problem(self.path, f"image_id {key}: relationships[{index}]", problem)
            elif ids.issuperset(ends):
                yield predicate

    def _plain(self, predicate: str) -> str:
        name = predicate.lower().strip()
        return self.aliases.get(name, name)


def _slim(item: Json) -> Any:
    """A relationship as (predicate, subject's id, object's id), an object as its id: a third of the memory."""
    if "relationships" in item or "image_id" in item:
        return item
    if "predicate" in item:
        predicate = item["predicate"]
        ends = as_id(item.get("subject")), as_id(item.get("object"))
        return predicate if isinstance(predicate, str) else None, *ends
    return as_id(item.get(name_of_id(item, "object_id")))
