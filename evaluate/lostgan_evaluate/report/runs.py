"""The files that a report is made of: evaluation.json of `evaluate`, and table.json of `experiment`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from lostgan_evaluate.evaluation import FORMAT
from lostgan_evaluate.experiments.tables import EXPERIMENTS
from lostgan_evaluate.experiments.tabulate import TABLE_FORMAT, grids_of
from lostgan_evaluate.grids import Grid
from lostgan_evaluate.scores import Better
from lostgan_serve.errors import InputError
from lostgan_serve.files import parse_json, reading


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class ReadScore(_Part):
    """A score of an evaluation.json, see `scores.Score`. metric: the one that gave it."""

    value: float
    better: Better
    spread: float | None = None
    real: float | None = None
    by_label: dict[str, float] = {}
    facts: dict[str, Any] = {}
    metric: str = ""


class _Subject(_Part):
    name: str
    model: dict[str, Any] | None = None
    images: int
    layouts: int | None = None


class _Evaluation(_Part):
    subject: _Subject
    data: dict[str, Any]
    protocol: dict[str, Any]
    seed: int
    extractors: list[str]
    versions: dict[str, str]
    scores: dict[str, ReadScore]
    left_out: dict[str, str] = {}
    sheets: list[str] = []


@dataclass(frozen=True)
class Run:
    """An evaluation. name: unlike that of any other run of the report. folder: of evaluation.json and its pictures.
    facts: all that its scores depend on, by a name such as "protocol.samples"."""

    name: str
    folder: Path
    facts: Mapping[str, str]
    scores: Mapping[str, ReadScore]
    left_out: Mapping[str, str]
    sheets: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """The table of an experiment. grids: as measured, by label, the claims, and as published."""

    title: str
    grids: tuple[Grid, ...]
    missing: Mapping[str, str]


def read_files(files: Sequence[Path]) -> tuple[list[Run], list[Table]]:
    """Read evaluations and tables, each in the order given. Raises InputError for a file that is neither."""
    evaluations: list[tuple[Path, _Evaluation]] = []
    tables: list[Table] = []
    for file in files:
        content = _load(file)
        try:
            if content.get("format") == FORMAT:
                evaluations.append((file, _Evaluation.model_validate(content)))
            elif content.get("format") == TABLE_FORMAT:
                tables.append(_table(content))
            else:
                raise InputError(f"{file}: format {content.get('format')!r}; {_GIVE}")
        except ValidationError as error:
            place = ".".join(map(str, error.errors()[0]["loc"]))
            raise InputError(f"{file}: {place}: {error.errors()[0]['msg']}; {_GIVE}") from None
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{file}: damaged ({type(error).__name__}: {error}); make it again") from None
    return _named(evaluations), tables


_DIGEST = 16
"""Characters of a checksum that are told."""

_GIVE = "give evaluation.json of `lostgan-serve evaluate`, or table.json of `experiment`"


def _load(file: Path) -> dict[str, Any]:
    with reading(file):
        text = file.read_bytes()
    try:
        content = parse_json(text)
    except ValueError as error:
        raise InputError(f"{file}: is no JSON ({error}); {_GIVE}") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: is no JSON object; {_GIVE}")
    return content


def _table(content: Mapping[str, Any]) -> Table:
    experiment = EXPERIMENTS[content["experiment"]]
    title = f"{experiment.name}: {content['title']}"
    return Table(title, tuple(grids_of(experiment, content)), dict(content["missing"]))


def _named(evaluations: list[tuple[Path, _Evaluation]]) -> list[Run]:
    """The runs, each under the name of what it evaluates; two of the same name are told apart by their folders."""
    short = [Path(found.subject.name).name or found.subject.name for _, found in evaluations]
    folders = [str(file.parent) for file, _ in evaluations]
    names = [
        name if Counter(short)[name] == 1 else f"{name} ({folder})" for name, folder in zip(short, folders, strict=True)
    ]
    return [
        Run(name, file.parent, _facts(found), found.scores, found.left_out, tuple(found.sheets))
        for name, (file, found) in zip(names, evaluations, strict=True)
    ]


def _facts(found: _Evaluation) -> dict[str, str]:
    parts = {
        "subject": found.subject.model_dump(exclude={"model"}),
        "model": found.subject.model or {},
        "data": found.data,
        "protocol": found.protocol,
        "seed": found.seed,
        "extractors": ", ".join(found.extractors),
        "version": found.versions,
        "score": {name: score.facts for name, score in found.scores.items()},
    }
    return dict(_flat("", parts))


def _flat(prefix: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [item for key, part in value.items() for item in _flat(f"{prefix}.{key}" if prefix else str(key), part)]
    return [] if value is None else [(prefix, str(value)[:_DIGEST] if prefix.endswith("sha256") else str(value))]
