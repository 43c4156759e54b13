"""The machine that figures are of, and their table, for every benchmark."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lostgan_serve.runners.cores import usable_cores


def machine() -> dict[str, Any]:
    """Describe the machine that figures are measured on."""
    import torch

    from lostgan_export.onnx_export import tool_versions

    cpu = _cpu()
    features = sorted(set(cpu.get("flags", "").split()) & {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_fp16"})
    return {
        "cpu": cpu.get("model name", platform.processor() or platform.machine()),
        "cpu_features": features,
        "cores": usable_cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        **tool_versions(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown, its columns aligned: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    first, *others = widths
    ruler = [":" + "-" * (first - 1), *("-" * (width - 1) + ":" for width in others)]
    lines = (titles, ruler, *rows)
    return [
        f"| {cells[0].ljust(first)} | {' | '.join(c.rjust(w) for c, w in zip(cells[1:], others, strict=True))} |"
        for cells in lines
    ]


def _cpu() -> dict[str, str]:
    """Read Linux's words on the first core; nothing elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}
