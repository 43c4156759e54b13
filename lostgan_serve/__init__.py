"""Layout-to-image generation with LostGAN: the run time, without torch.

    from lostgan_serve import Layout, generate
    from lostgan_serve.runners.onnxrt import OnnxRunner

    result = next(generate([Layout.load("layout.json")], OnnxRunner("triton_repo/lostgan_128")))
    result.image  # [R, R, 3] uint8

Names are loaded on first use, so that `import lostgan_serve` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lostgan_serve.errors import LostganError
    from lostgan_serve.layout import Layout
    from lostgan_serve.pipeline import Result, generate
    from lostgan_serve.vocabulary import Vocabulary

__version__ = "0.1.0"
__all__ = ["Layout", "LostganError", "Result", "Vocabulary", "generate"]

_HOMES = {
    "Layout": "layout",
    "LostganError": "errors",
    "Result": "pipeline",
    "Vocabulary": "vocabulary",
    "generate": "pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lostgan_serve' has no attribute {name!r}")
    return getattr(importlib.import_module(f"lostgan_serve.{_HOMES[name]}"), name)
