"""Known faults of Triton Inference Server, by the version that mends them.

The bulletins are NVIDIA's, in its repository product-security, as they stood on 2026-11-27; later ones are not here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Advisory:
    """A bulletin or a CVE. fixed_in: the first version without the fault; container: the release of NVIDIA's image."""

    name: str
    fixed_in: tuple[int, int, int]
    container: str


ADVISORIES = (
    Advisory("CVE-2025-23327", (2, 58, 0), "25.05"),
    Advisory("bulletin 5687 (requests over HTTP and to the Python backend run code)", (2, 59, 1), "25.07"),
    Advisory("CVE-2025-23316 (a model's name runs code, by the calls that load models)", (2, 60, 0), "25.08"),
    Advisory("bulletin 5816", (2, 66, 0), "26.02"),
    Advisory("bulletins 5828 (critical) and 5860", (2, 67, 0), "26.03"),
    Advisory("bulletin 5848", (2, 68, 0), "26.04"),
    Advisory("bulletin 5853", (2, 69, 0), "26.05"),
    Advisory("bulletin 5865 (critical)", (2, 70, 0), "26.06"),
    Advisory("bulletin 5875", (2, 71, 0), "26.07"),
)  # fmt: skip


def open_in(version: str) -> list[Advisory]:
    """The advisories that a version is open to. version: such as 2.51.0."""
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdecimal())
    return [advisory for advisory in ADVISORIES if numbers < advisory.fixed_in]
