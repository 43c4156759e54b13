"""`run.json`: all settings of a run, kept in its folder, and every change that was made to them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic

from lostgan_serve.errors import CheckpointError, TrainingError
from lostgan_serve.files import parse_json, read_file, reading, write_file
from lostgan_serve.vocabulary import is_printable
from lostgan_train.settings import S, build, option_name, read_config
from lostgan_train.states import STATE_FILES, states_in

RUN_FILE = "run.json"
_MAX_BYTES = 64 << 20  # a run may change its settings a hundred thousand times

_ANEW = f"remove the states ({STATE_FILES}) to begin anew, or choose another --out"
_RESTORE = "restore it, or begin anew in another --out"


@dataclass(frozen=True)
class RunFile(Generic[S]):
    """The settings of the run in `out`, and the changes to them: after which step, and from what to what."""

    out: Path
    settings: S
    changes: tuple[Mapping[str, Any], ...] = ()

    def override(self, options: Mapping[str, Any]) -> S:
        """The settings with options in place of some of them. Raises CheckpointError for one that a run cannot change,
        and TrainingError for an impossible one."""
        settings = build(type(self.settings), {**self.settings.to_json(), **options})
        for name, (old, new) in self._changed(settings).items():
            if next(item for item in fields(settings) if item.name == name).metadata["fixed"]:
                raise CheckpointError(
                    f"{self.out / RUN_FILE}: made with {option_name(name)} {old}, not {new}; leave that option out, or "
                    "begin anew in another --out"
                )
        return settings

    def record(self, settings: S, step: int) -> None:
        """Write the settings that hold after a step, and what changed, if anything did. Raises OutputError."""
        if changed := self._changed(settings):
            RunFile(self.out, settings, (*self.changes, {"after_step": step, "changed": changed})).write()

    def _changed(self, settings: S) -> dict[str, list[Any]]:
        before = self.settings.to_json()
        return {name: [before[name], new] for name, new in settings.to_json().items() if before[name] != new}

    def write(self) -> None:
        """Write the file, whole or not at all. Raises OutputError."""
        content = {
            "command": self.settings.command,
            "settings": self.settings.to_json(),
            "changes": self.changes,
        }
        write_file(self.out / RUN_FILE, json.dumps(content, indent=1).encode())


def settings_for(kind: type[S], out: Path, resume: bool, config: Path | None, options: Mapping[str, Any]) -> S:
    """The settings of a run: the options over the file `config` over those of the run in `out`, or over the defaults.

    resume: whether there is a run in `out` to go on with. Raises InputError, TrainingError, CheckpointError.
    """
    values = {**(read_config(kind, config) if config else {}), **options}
    if not resume:
        check_vacant(out)  # first, for a run that is there may have the settings that are missing
        return build(kind, values)
    for name in ("init", "init_discriminator"):
        if name in options:
            raise TrainingError(
                f"{option_name(name)} and --resume exclude each other: a resumed run has its own weights"
            )
    return read_run(kind, out).override(values)


def check_vacant(out: Path) -> None:
    """Raise TrainingError where a folder holds a run, or cannot hold one, and InputError where it may not be
    searched."""
    if not is_printable(str(out)):
        raise TrainingError(f"--out {str(out)!r}: TensorBoard needs a name that is UTF-8; choose another")
    with reading(out):
        if (out / RUN_FILE).exists():
            raise TrainingError(f"{out}: holds a run already; go on with --resume, or choose another --out")
        if states_in(out):
            raise TrainingError(f"{out}: holds states of a run, but no {RUN_FILE}; {_ANEW}")


def read_run(kind: type[S], out: Path) -> RunFile[S]:
    """The run in a folder. Raises CheckpointError where it holds none that is whole, and InputError where that may not
    be read."""
    path = out / RUN_FILE
    with reading(path):
        if not path.exists() and states_in(out):
            raise CheckpointError(f"{path}: missing, though there are states; restore it, or {_ANEW}")
        if not path.exists():
            raise CheckpointError(f"{out}: no state to resume from; start the run without --resume")
        text = read_file(path, _MAX_BYTES)
    try:
        content = parse_json(text)
        command, settings, changes = content["command"], dict(content["settings"]), tuple(content["changes"])
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged ({type(error).__name__}); {_RESTORE}") from None
    if command != kind.command:
        raise CheckpointError(f"{path}: a run of `{command}`; go on with: lostgan-serve {command} --resume --out {out}")
    try:
        return RunFile(out, build(kind, settings), changes)
    except TrainingError as error:
        raise CheckpointError(f"{path}: {error}; {_RESTORE}") from None
