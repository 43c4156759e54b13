"""Label names and their ids. An id is a row of a model's label embedding: a vocabulary's order never changes."""

from __future__ import annotations

import difflib
import reprlib
import textwrap
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources

from lostgan_serve.errors import VocabularyError

IMAGE_LABEL_NAME = "__image__"

_BUILT_IN = {
    # name: (default object slots, whether every layout ends with a background object)
    "coco-stuff": (8, False),
    "visual-genome": (31, True),
    "scenes": (12, False),
}
BUILT_IN_NAMES = tuple(_BUILT_IN)

BUNDLED_VOCABULARY = "scenes"
"""The vocabulary of the bundled models."""


_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}  # Unicode's control characters, lone surrogates and line breaks


def is_printable(label: str) -> bool:
    """Whether a label has neither control characters, such as NUL or line breaks, nor lone surrogates."""
    return not any(unicodedata.category(character) in _UNPRINTABLE for character in label)


@dataclass(frozen=True)
class Vocabulary:
    """The words that may stand in a layout's `label`, and the slots that go with them.

    labels: the name of each id, in printable characters; `__image__` at 0, "" where no trained model knows the id.
    slots: object slots that a model has by default. background: whether layouts end with a background object of label 0
    over the whole canvas, which takes one of the slots.
    """

    name: str
    labels: tuple[str, ...]
    slots: int = field(default=8)
    background: bool = field(default=False)

    def __post_init__(self) -> None:
        if not self.labels or self.labels[0] != IMAGE_LABEL_NAME:
            raise VocabularyError(f"vocabulary {reprlib.repr(self.name)}: the first label must be {IMAGE_LABEL_NAME!r}")
        for label in self.labels:
            if not is_printable(label):
                raise VocabularyError(
                    f"vocabulary {reprlib.repr(self.name)}: label {reprlib.repr(label)}: holds a line break, another "
                    "control character or half of a character; rename it"
                )
        counts = Counter(label for label in self.labels if label)
        if twice := sorted(label for label, count in counts.items() if count > 1):
            shown = textwrap.shorten(", ".join(twice), 200)
            raise VocabularyError(f"vocabulary {reprlib.repr(self.name)}: these labels stand twice: {shown}")

    @classmethod
    def built_in(cls, name: str) -> Vocabulary:
        """One of `BUILT_IN_NAMES`. Raises VocabularyError."""
        if name not in _BUILT_IN:
            raise VocabularyError(f"unknown vocabulary {name!r}; known: {', '.join(_BUILT_IN)}")
        text = resources.files("lostgan_serve").joinpath(f"vocabularies/{name}.txt").read_text("utf-8")
        slots, background = _BUILT_IN[name]
        return cls(name, tuple(text.removesuffix("\n").split("\n")), slots, background)

    def __len__(self) -> int:
        """How many ids there are, unused ones and `__image__` included."""
        return len(self.labels)

    def __iter__(self) -> Iterator[str]:
        """The labels that a layout may use, in the order of their ids."""
        return (label for label in self.labels[1:] if label)

    @cached_property
    def _ids(self) -> dict[str, int]:
        ids = {label: i for i, label in enumerate(self.labels) if i and label}
        # COCO-Stuff calls its most general classes "sky-other" and the like: "sky" alone means them
        general = {label.removesuffix("-other"): i for label, i in ids.items() if label.endswith("-other")}
        return general | ids

    def id_of(self, label: str) -> int:
        """The id of a label. Raises VocabularyError naming the labels nearest to it."""
        if label in self._ids:
            return self._ids[label]
        cutoff = 0.7 if len(label) > 3 else 0.6  # one wrong letter of three
        near = difflib.get_close_matches(label.lower(), self._ids, n=3, cutoff=cutoff)
        where = (
            f"`lostgan-serve labels --vocabulary {self.name}`" if self.name in _BUILT_IN else "the model's labels.txt"
        )
        hint = f"nearest: {', '.join(near)}" if near else f"{where} lists them"
        raise VocabularyError(f"unknown label {reprlib.repr(label)} in vocabulary {self.name}; {hint}")
