"""Servers that go wrong behind the gateway, and gateways that do: noticed, told, and started again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from lostgan_serve.contract import Z_DIM, Array
from lostgan_serve.errors import ServerError
from lostgan_serve.runners.onnxrt import OnnxRunner
from lostgan_serve.runners.triton import TritonRunner
from servers import MODEL, asked, assert_answers, gateway, layouts, leaves_nothing, serving, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def local(tiny_model: Path) -> Iterator[OnnxRunner]:
    with closing(OnnxRunner(tiny_model)) as runner:
        yield runner


@contextmanager
def serving_a_model_of(code: str, mark: Path, repository: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """See `serving`; of a copy of the repository, whose model's code is another. mark: the path of {mark!r} in it."""
    copy = Path(shutil.copytree(repository, mark.with_name("repository")))
    (copy / MODEL / "1" / "model.py").write_text(code.replace("{mark!r}", repr(str(mark))), encoding="utf-8")
    process, endpoints = serving(copy)
    try:
        yield process, endpoints
    finally:
        process.terminate()
        process.communicate(timeout=60)


MISBEHAVING = """
import json, pathlib, time
import numpy as np
import triton_python_backend_utils as pb_utils
from lostgan_serve.triton.embedded import TritonPythonModel as Own

class TritonPythonModel(Own):
    def execute(self, requests):
        mark = pathlib.Path({mark!r})
        if not mark.exists():
            return super().execute(requests)
        mark.unlink()
        {deed}
"""
DEEDS = {
    "gives no answers": "time.sleep(10000)",
    "answers with other pictures than at first": """
        run = self._runner.run
        self._runner.run = lambda *a: {n: 255 - v for n, v in run(*a).items()}
        return super().execute(requests)""",
    "answers with black pictures": """
        run = self._runner.run
        self._runner.run = lambda *a: {n: 0 * v for n, v in run(*a).items()}
        return super().execute(requests)""",
}


@pytest.mark.parametrize(
    "reason", [reason if "no answers" in reason else pytest.param(reason, marks=pytest.mark.long) for reason in DEEDS]
)
def test_a_model_that_goes_wrong_is_unready_and_started_again(
    reason: str, tiny_repository: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    code = MISBEHAVING.replace("{deed}", DEEDS[reason])
    with serving_a_model_of(code, mark, tiny_repository) as (process, (http_, _, metrics)):
        until(lambda: b"lostgan_serve_probe_seconds{" in asked(metrics, "/metrics")[1], within_s=60)
        mark.touch()
        until(lambda: asked(http_, "/v2/health/ready")[0] != 200, within_s=60)  # patience grows with the first answer
        assert process.stderr
        told = [process.stderr.readline() for _ in range(4)]
        assert f"the model {MODEL} {reason}; starting tritonserver again\n" in told
        assert told[-1].startswith("tritonserver is ready again")
        assert asked(http_, "/v2/health/ready")[0] == 200
        assert "lostgan_serve_restarts_total 1" in asked(metrics, "/metrics")[1].decode()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_gateway_that_dies_or_stops_is_started_again(
    number: signal.Signals, tiny_repository: Path, local: OnnxRunner
) -> None:
    process, (http_, grpc_, _) = serving(tiny_repository)
    with leaves_nothing(process), closing(TritonRunner(grpc_, MODEL)) as runner:
        assert_answers(runner, local)
        first = gateway(process.pid)
        os.kill(first, number)
        assert_answers(runner, local)
        until(lambda: asked(http_, "/v2/health/ready")[0] == 200)
        assert gateway(process.pid) != first
        process.terminate()


LATE = """
import pathlib
from lostgan_serve.triton.embedded import TritonPythonModel as Own

class TritonPythonModel(Own):
    last = None

    def execute(self, requests):
        now = super().execute(requests)
        if not pathlib.Path({mark!r}).exists():
            return now
        last, self.last = self.last, super().execute(requests)
        return last or now
"""


def styled(value: float) -> dict[str, Array]:
    return {**layouts(), "z_img": np.full((1, Z_DIM), value, np.float32)}


def test_an_answer_to_another_request_is_not_passed_on(tiny_repository: Path, tmp_path: Path) -> None:
    """Each answer is that to the request before, as those of Triton's backend are once it has missed one."""
    mark = tmp_path / "mark"
    with serving_a_model_of(LATE, mark, tiny_repository) as (_, (http_, grpc_, metrics)):
        with (
            closing(TritonRunner(f"http://{http_}", MODEL, patience_s=0)) as over_http,
            closing(TritonRunner(f"grpc://{grpc_}", MODEL, patience_s=0)) as over_grpc,
        ):
            over_http.run(styled(0), ["image"])
            mark.touch()
            with suppress(ServerError):  # this answer is right, unless a probe was before it
                over_http.run(styled(1), ["image"])
            with pytest.raises(ServerError, match="another request"):
                over_http.run(styled(2), ["image"])
            with pytest.raises(ServerError, match="another request"):
                over_grpc.run(styled(3), ["image", "masks"])
        assert 'reason="another request\'s answer"' in asked(metrics, "/metrics")[1].decode()
