"""Vocabularies: labels that a file with one label a line, a terminal and a layout can hold."""

from __future__ import annotations

import json

import pytest

from conftest import a_manifest
from lostgan_serve.errors import ModelError, VocabularyError
from lostgan_serve.manifest import Manifest
from lostgan_serve.vocabulary import BUILT_IN_NAMES, Vocabulary

UNPRINTABLE = ["traffic\nlight", "cat\r", "tab\tular", "NUL\0", "line\u2028separator", "half \ud83d", "\x85"]


@pytest.mark.parametrize("label", UNPRINTABLE)
def test_a_label_that_does_not_fit_on_a_line_is_named(label: str) -> None:
    with pytest.raises(VocabularyError) as caught:
        Vocabulary("own", ("__image__", "sky", label))
    assert f"vocabulary 'own': label {label!r}: " in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_model_with_such_a_label_is_refused() -> None:
    manifest = json.loads(a_manifest().to_json())
    manifest["vocabulary"]["labels"][3] += "\n"
    with pytest.raises(ModelError, match=r"^model\.onnx: not a lostgan-serve model"):
        Manifest.from_json(json.dumps(manifest), "model.onnx")


@pytest.mark.parametrize("label", ["fire hydrant", "café", "猫", "🐈", "a\u00a0b"])
def test_other_labels_are_taken(label: str) -> None:
    assert Vocabulary("own", ("__image__", label)).id_of(label) == 1


@pytest.mark.parametrize("name", BUILT_IN_NAMES)
def test_built_in_vocabularies(name: str) -> None:
    assert len(list(Vocabulary.built_in(name))) >= 25
