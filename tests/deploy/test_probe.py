"""The probe of a container, beside a real server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from deployment import healthcheck
from lostgan_serve.processes import children
from lostgan_serve.triton.exposure import Exposure
from lostgan_serve.triton.server import Endpoints, running_server
from servers import MODEL

pytestmark = pytest.mark.slow

BLACK = """
from lostgan_serve.triton.embedded import TritonPythonModel as Own

class TritonPythonModel(Own):
    def execute(self, requests):
        run = self._runner.run
        self._runner.run = lambda *a: {name: 0 * array for name, array in run(*a).items()}
        return super().execute(requests)
"""


def probed(repository: Path, endpoints: Endpoints) -> subprocess.CompletedProcess[str]:
    command = healthcheck(repository, int(endpoints.http.rpartition(":")[2]))
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("direct", [False, True])
def test_a_server_is_well_as_long_as_its_models_generate(tiny_repository: Path, direct: bool) -> None:
    with running_server(tiny_repository, Exposure(direct=direct)) as endpoints:
        done = probed(tiny_repository, endpoints)
        assert (done.returncode, done.stderr) == (0, "")
        if direct:
            (stub,) = children(endpoints.pid)
            os.kill(stub, signal.SIGKILL)
            done = probed(tiny_repository, endpoints)
            assert done.returncode == 1
            assert f"/v2/models/{MODEL}/infer: status 500" in done.stderr
    done = probed(tiny_repository, endpoints)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_black_pictures_are_none(tiny_repository: Path, tmp_path: Path) -> None:
    repository = Path(shutil.copytree(tiny_repository, tmp_path / "repository"))
    (repository / MODEL / "1" / "model.py").write_text(BLACK, encoding="utf-8")
    with running_server(repository, Exposure(direct=True)) as endpoints:
        done = probed(repository, endpoints)
    assert (done.returncode, done.stderr) == (1, f"error: {MODEL} answers with a black picture\n")
    shutil.rmtree(repository / MODEL)
    assert "no exported model" in probed(repository, endpoints).stderr
