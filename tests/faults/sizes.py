"""Measure the memory and the shared memory of a server, by the resolution of its model and the size of its batches.

Usage: python tests/faults/sizes.py REPOSITORY...

Each repository has one model. All outputs are asked for, which is the most that a request can cost.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from lostgan_export.bench.formulations import layouts_for
from lostgan_export.bench.report import table
from lostgan_serve.contract import OUTPUT_NAMES
from lostgan_serve.processes import family, sizes_kib
from lostgan_serve.runners.triton import TritonRunner
from servers import serving, shared_memory

_REQUESTS = 5


def measured(repository: Path) -> Iterator[tuple[str, ...]]:
    """Rows of the table, for one repository."""
    process, (_, grpc, *_) = serving(repository)
    try:
        with closing(TritonRunner(grpc)) as runner:
            resolution, most = runner.manifest.resolution, runner.manifest.max_batch
            for batch in sorted({0, 1, most // 2, most}):
                for _ in range(_REQUESTS if batch else 0):
                    runner.run(layouts_for(runner.manifest, batch), OUTPUT_NAMES)
                pss = sum(sizes_kib(pid).get("Pss", 0) for pid in family(process.pid)) / 1024
                shared = sum(path.stat().st_size for path in shared_memory(process.pid) if path.is_file()) / 2**20
                yield f"{resolution}", f"{batch}" if batch else "none yet", f"{pss:.0f}", f"{shared:.1f}"
    finally:
        process.terminate()
        process.communicate(timeout=60)


if __name__ == "__main__":
    rows = [row for repository in sys.argv[1:] for row in measured(Path(repository))]
    print("\n".join(table(("resolution", "batch", "memory, MiB", "shared memory, MiB"), rows)))
