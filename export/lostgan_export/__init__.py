"""Export: from a checkpoint to a model that Triton serves.

    from lostgan_export import publish
    from lostgan_train.networks.checkpoint import load_checkpoint

    publish(load_checkpoint(Path("generator.safetensors")), Path("triton_repo"))

`publish` is loaded on first use, with torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lostgan_export.publishing import publish

__all__ = ["publish"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'lostgan_export' has no attribute {name!r}")
    return getattr(importlib.import_module("lostgan_export.publishing"), name)
