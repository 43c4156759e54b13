"""What the tests of the fault suite share: the right pictures, and counts that must come out clean."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from conftest import run_cli
from faults.leftovers import Traces
from faults.load import ALL_LAYOUTS, Truth
from faults.tally import PROPERTY
from faults.trial import Trial

SEED_VARIABLE = "LOSTGAN_FAULTS_SEED"


@pytest.fixture(scope="session")
def truth(tiny_repository: Path) -> Truth:
    return Truth(tiny_repository / "lostgan_128")


@pytest.fixture(scope="session")
def pictures(truth: Truth, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `generate` fills with the pictures of every layout."""
    folder = tmp_path_factory.mktemp("pictures")
    run_cli("generate", *ALL_LAYOUTS, "--model", truth.folder, "--out", folder, check=True)
    return folder


@pytest.fixture
def trial(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tiny_repository: Path,
    truth: Truth,
    pictures: Path,
    record_property: Callable[[str, object], None],
) -> Iterator[Trial]:
    """A test of the suite, in which nothing may be wrong, lost or left over. Its seed is printed where it fails."""
    seed = f"{os.environ.get(SEED_VARIABLE, '0')} {request.node.name}"
    print(f"seed: {seed}")
    trial = Trial(seed, tmp_path, tiny_repository, truth, pictures, Traces(tmp_path))
    yield trial
    trial.traces.note()
    trial.tally.left += trial.traces.left(tmp_path)
    trial.traces.kill()
    record_property(PROPERTY, asdict(trial.tally))
    problems = trial.tally.problems()
    assert not problems, "\n".join(problems)


@pytest.fixture
def repository(tiny_repository: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(tiny_repository, tmp_path / "repository"))
