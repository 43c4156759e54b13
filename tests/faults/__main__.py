"""Run the fault suite, and print a table of what was injected and what became of it.

Usage: python tests/faults [--seed N] [--json FILE] [pytest's own options]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from faults.conftest import SEED_VARIABLE  # noqa: E402
from faults.tally import PROPERTY, Row, Tally, faults_table  # noqa: E402
from lostgan_export.bench.report import machine  # noqa: E402


class Rows:
    """A plugin of pytest that gathers a row for each test."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._outcomes: dict[str, str] = {}
        self._seconds: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid
        self._seconds[name] = self._seconds.get(name, 0.0) + report.duration
        if report.outcome != "passed":
            reason = f": {report.longrepr[2]}" if report.skipped and isinstance(report.longrepr, tuple) else ""
            self._outcomes.setdefault(name, report.outcome + reason.replace("Skipped: ", ""))
        if report.when == "teardown":
            found = dict(report.user_properties).get(PROPERTY)
            tally = Tally(**found) if isinstance(found, dict) else Tally()
            file, _, test = name.partition("::")
            words = (Path(file).stem.removeprefix("test_"), test.removeprefix("test_"))
            self.rows.append(Row(*words, self._seconds[name], self._outcomes.get(name, "passed"), tally))


def main() -> int:
    """Returns pytest's exit code."""
    parser = argparse.ArgumentParser(prog="python tests/faults", description="Run the fault suite.")
    parser.add_argument("--seed", type=int, default=random.randrange(2**31), help="of the random moments")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file to write the counts to")
    options, rest = parser.parse_known_args()
    os.environ[SEED_VARIABLE] = str(options.seed)
    print(f"seed {options.seed}: the same moments again with --seed {options.seed}", flush=True)
    rows = Rows()
    code = pytest.main(["-m", "long or not long", "-p", "no:cacheprovider", str(HERE), *rest], plugins=[rows])
    print("\n".join(faults_table(rows.rows)))
    if options.json:
        figures = {"machine": machine(), "seed": options.seed, "tests": [asdict(row) for row in rows.rows]}
        options.json.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
