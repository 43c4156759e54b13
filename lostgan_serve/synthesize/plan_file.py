"""A plan as a file that people and programs read: Parquet or JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lostgan_serve.errors import OutputError, require
from lostgan_serve.files import write_file, writing
from lostgan_serve.synthesize.plan import Plan, PlanSummary, summarize


def check_plan_file(path: Path) -> None:
    """Raise OutputError for a name that says neither format, and MissingExtraError without pyarrow for Parquet."""
    if path.suffix == ".parquet":
        require("pyarrow", "ray")
    elif path.suffix != ".jsonl":
        raise OutputError(f"{path}: give a name that ends in .parquet or .jsonl")


def write_plan(plan: Plan, path: Path) -> PlanSummary:
    """Write a row for each planned image, with its layout in its first style as JSON, and return the counts.

    Raises OutputError and MissingExtraError.
    """
    check_plan_file(path)
    rows = list(plan.rows())
    records = [row.to_json(plan.recipe.seed) for row in rows]
    if path.suffix == ".jsonl":
        write_file(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode())
    else:
        _write_parquet(records, path)
    return summarize(plan, rows)


def _write_parquet(records: list[dict[str, Any]], path: Path) -> None:
    pa, parquet = require("pyarrow", "ray"), require("pyarrow.parquet", "ray")
    columns = [record | {"layout": json.dumps(record["layout"], ensure_ascii=False)} for record in records]
    types = {"row": pa.int64(), "shard": pa.int64(), "copy": pa.int64()}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in columns[0]])
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(columns, schema), sink)
    with writing(path):
        write_file(path, sink.getvalue().to_pybytes())
