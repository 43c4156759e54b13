"""The token that a page shows to its server, kept over restarts so that a page that is open connects again."""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path

from lostgan_serve.progress import Progress

_TOKEN = re.compile(r"[\w-]{32}", re.ASCII)


def make_token() -> str:
    """A token that nobody can guess."""
    return secrets.token_urlsafe(24)


def kept_token(progress: Progress) -> str:
    """The user's token, made where there is none. One that cannot be kept is told of."""
    try:
        folder = _state_folder() / "lostgan-serve"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _read_or_made(folder / "editor-token")
    except (OSError, RuntimeError, UnicodeError) as error:  # RuntimeError: there is no home
        progress.note(f"note: the token is a new one at each start, and open pages do not connect again ({error})")
        return make_token()


def _read_or_made(path: Path) -> str:
    """Raises OSError for a file that others may read or have made."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+", encoding="ascii") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o077:
            raise OSError(f"{path}: it is not yours alone; delete it")
        token = file.read()
        if not _TOKEN.fullmatch(token):  # as in a new file
            token = make_token()
            file.seek(0)
            file.truncate()
            file.write(token)
        return token


def _state_folder() -> Path:
    """Where the user's programs keep their state: $XDG_STATE_HOME, or ~/.local/state."""
    given = Path(os.environ.get("XDG_STATE_HOME", ""))
    return given if given.is_absolute() else Path.home() / ".local" / "state"
