"""The files of saved states in the folder of a run: state-0000100.pt is that after step 100.

Each is a zip archive of torch's whose comment is the SHA-256 of all before it: torch reads it as any other, and a bit
that flipped anywhere is noticed. The checksums of zip leave out what stands between and behind the archive's members.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

STATE_FILES = "state-*.pt"

_END, _END_BYTES = b"PK\5\6", 22  # of a zip archive; the last two are the length of the comment that follows
_DIGEST_BYTES = 64  # hexadecimal digits
_CHUNK_BYTES = 1 << 20

_STATE = re.compile(r"state-(\d+)\.pt", re.ASCII)


def key_of(*facts: object) -> str:
    """A short name of all that a state depends on, for its folder: 16 hexadecimal digits of the facts' `repr`.

    Names of files need not be UTF-8.
    """
    return hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def state_file(out: Path, step: int) -> Path:
    """The file for the state after `step`."""
    return out / f"state-{step:07}.pt"


def states_in(out: Path) -> list[Path]:
    """The files of saved states, the newest first; not those that people named otherwise, or that were set aside."""
    return sorted((file for file in out.glob(STATE_FILES) if _STATE.fullmatch(file.name)), key=step_of, reverse=True)


def step_of(file: Path) -> int:
    """The step after which a state was saved. file: one of `states_in`."""
    return int(file.stem.removeprefix("state-"))


def newest_step(out: Path) -> int:
    """The step of the newest state, 0 without any."""
    return max(map(step_of, states_in(out)), default=0)


def set_aside(file: Path) -> None:
    """Rename a damaged state, so that it counts no longer as one of those that are kept. Raises OSError."""
    file.rename(file.with_name(f"damaged-{file.name}"))


class DamagedStateError(Exception):
    """A file that is not the one that was saved."""


def sealed(archive: bytes) -> bytes:
    """A zip archive without a comment, with its checksum for one."""
    body, length = memoryview(archive)[:-2], _DIGEST_BYTES.to_bytes(2, "little")
    digest = hashlib.sha256(body)
    digest.update(length)
    return b"".join((body, length, digest.hexdigest().encode()))


def check_seal(file: Path) -> None:
    """Raise DamagedStateError where a file is not the one that was saved, and OSError where it cannot be read.

    States of earlier versions have no checksum, and pass.
    """
    size = file.stat().st_size
    with file.open("rb") as content:
        content.seek(max(0, size - _END_BYTES - _DIGEST_BYTES))
        tail = content.read()
        if tail[-_END_BYTES:].startswith(_END) and tail.endswith(bytes(2)):
            return
        content.seek(0)
        digest, left = hashlib.sha256(), size - _DIGEST_BYTES
        while left > 0 and (chunk := content.read(min(left, _CHUNK_BYTES))):
            digest.update(chunk)
            left -= len(chunk)
    if not tail.startswith(_END) or tail[_END_BYTES:] != digest.hexdigest().encode():
        raise DamagedStateError("its checksum differs")
