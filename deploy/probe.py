"""Whether a server generates: each model is sent its warm-up layout, and has to answer with a picture.

    probe.py REPOSITORY [HOST:PORT]

Exit code 0 where all do, 1 with a line where one does not. A server whose queue is full is well. Standard library only,
as entrypoint.py, and for the same reason.
"""

from __future__ import annotations

import http.client
import json
import sys
from pathlib import Path
from typing import Any

TIMEOUT_S = 9
QUEUE_FULL = "Exceeds maximum queue size"


class ProbeError(Exception):
    """Why a server is not well; one line."""


def main(repository: Path, address: str = "127.0.0.1:8000") -> int:
    """Probe every exported model. Returns the exit code."""
    models = sorted(path.parents[1].name for path in repository.glob("*/[1-9]*/model.onnx"))
    try:
        if not models:
            raise ProbeError(f"{repository}: no exported model in this repository")
        for name in models:
            probe(repository / name, address)
    except (ProbeError, OSError, http.client.HTTPException, ValueError) as error:
        print(f"error: {error}" if str(error) else f"error: {type(error).__name__}", file=sys.stderr)
        return 1
    return 0


def probe(model: Path, address: str) -> None:
    """Have a model generate its warm-up layout. Raises ProbeError where it does not, OSError and HTTPException."""
    metadata, _ = asked(address, "GET", f"/v2/models/{model.name}")
    tensors = [(item, (model / "warmup" / item["name"]).read_bytes()) for item in json.loads(metadata)["inputs"]]
    inputs = [
        {
            "name": item["name"],
            "datatype": item["datatype"],
            "shape": [1, *item["shape"][1:]],
            "parameters": {"binary_data_size": len(data)},
        }
        for item, data in tensors
    ]
    outputs = [{"name": "image", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": inputs, "outputs": outputs}).encode()
    body = b"".join([head, *(data for _, data in tensors)])
    answer, size = asked(address, "POST", f"/v2/models/{model.name}/infer", body, str(len(head)))
    if QUEUE_FULL.encode() not in answer and not any(answer[size:]):
        raise ProbeError(f"{model.name} answers with a black picture")


def asked(address: str, method: str, path: str, body: bytes = b"", json_size: str = "") -> tuple[bytes, int]:
    """The answer to a request, and the length of the JSON that it begins with. Raises ProbeError for a status of an
    error, but for a full queue."""
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
    try:
        headers: dict[str, Any] = {"Inference-Header-Content-Length": json_size} if json_size else {}
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    if response.status != http.client.OK and QUEUE_FULL.encode() not in answer:
        raise ProbeError(f"{path}: status {response.status}, {answer[:200].decode('utf-8', 'replace')}")
    return answer, int(response.headers.get("Inference-Header-Content-Length", 0))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:3]))
