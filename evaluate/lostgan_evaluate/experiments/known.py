"""Values that another machine, or an earlier run, has measured already: those of a table.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from lostgan_evaluate.experiments.tables import Experiment, Row
from lostgan_evaluate.scores import Better
from lostgan_serve.errors import EvaluationError
from lostgan_serve.files import read_file

_MOST_BYTES = 2**24


class _Score(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    values: list[float | None]
    better: Better
    by_label: dict[str, float]


class _Row(BaseModel):
    row: str
    scores: dict[str, _Score]


class _Table(BaseModel):
    experiment: str
    variant: str | None
    budget: dict[str, Any]
    evaluated: dict[str, Any] | None
    rows: list[_Row]


@dataclass(frozen=True)
class Known:
    """A table.json whose values stand. source: its path."""

    source: Path
    table: _Table

    @classmethod
    def read(cls, source: Path) -> Known:
        """Raises InputError where the file cannot be read, and EvaluationError where it is no table.json."""
        try:
            return cls(source, _Table.model_validate_json(read_file(source, _MOST_BYTES)))
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"]))
            raise EvaluationError(f"{source}: no table.json of `experiment` ({where}); give one") from None

    def scores(self, row: Row, seed: int) -> dict[str, dict[str, Any]]:
        """The scores of a row with a seed. Parts by label are means over seeds, which the table has alone."""
        found = next((each.scores for each in self.table.rows if each.row == row.key), {})
        values = {name: score.values[seed] for name, score in found.items() if seed < len(score.values)}
        return {
            name: {"value": value, "better": found[name].better, "by_label": found[name].by_label}
            for name, value in values.items()
            if value is not None
        }

    def check(self, experiment: Experiment, budget: Mapping[str, Any]) -> None:
        """Raise EvaluationError unless the table is of this experiment, and its rows had this budget."""
        own = {"experiment": experiment.name, "variant": experiment.variant}
        for name, value in own.items():
            if getattr(self.table, name) != value:
                raise EvaluationError(
                    f"{self.source}: its {name} is {getattr(self.table, name)}, not {value}; give a table that fits, "
                    "or do without --known"
                )
        wanted = json.loads(json.dumps(budget))
        for name in sorted(wanted.keys() | self.table.budget.keys()):
            if (found := self.table.budget.get(name)) != wanted.get(name):
                raise EvaluationError(
                    f"{self.source}: its networks had {name} {found}, not {wanted.get(name)}; give the same, or do "
                    "without --known"
                )

    def check_data(self, data: Mapping[str, Any]) -> None:
        """Raise EvaluationError where its values were measured on other data, see `evaluation.data_facts`."""
        if (found := self.table.evaluated) not in (None, data):
            raise EvaluationError(f"{self.source}: was measured on {found}, not on {data}; give the same --held-out")
