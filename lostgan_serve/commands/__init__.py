"""The command line. Commands of other parts of the package (`export`, `import`, ...) join through entry points.

Nothing heavy is imported before a command needs it, so that --help answers at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import click

from lostgan_serve import __version__
from lostgan_serve.errors import LostganError
from lostgan_serve.progress import discard, tell

_OWN = {
    "client": "lostgan_serve.commands.inference:client",
    "compare": "lostgan_serve.commands.figures:compare",
    "edit": "lostgan_serve.commands.edit:edit",
    "generate": "lostgan_serve.commands.inference:generate",
    "labels": "lostgan_serve.commands.labels:labels",
    "morph": "lostgan_serve.commands.figures:morph",
    "serve": "lostgan_serve.commands.serve:serve",
    "styles": "lostgan_serve.commands.figures:styles",
    "synthesize": "lostgan_serve.commands.synthesize:synthesize",
}


class _Commands(click.Group):
    """The run time's commands and those of the entry points "lostgan_serve.commands", each loaded on use."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return sorted({*_OWN, *_plugins()})

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if point := _plugins().get(cmd_name):
            return cast(click.Command, point.load())
        module, _, name = _OWN.get(cmd_name, "").partition(":")
        return cast(click.Command, getattr(importlib.import_module(module), name)) if module else None

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run; an error that the user can mend becomes one line and its exit code."""
        _prepare_streams()
        try:
            try:
                super().main(*args, **kwargs)
            finally:
                _flush()
        except LostganError as error:
            _fail(str(error), error.exit_code)
        except OSError as error:  # of a path that no command expected trouble with, or of standard output
            _fail(_described(error), LostganError.exit_code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run; Ctrl-C ends it at once (but for `train` and `semi`, which take it themselves, to save their state)."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            tell("stopped")
            os._exit(130)  # a usual exit would wait for the threads whose batches are in flight


def _plugins() -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group="lostgan_serve.commands")}


def _prepare_streams() -> None:
    """Make both outputs take any text, whatever the locale's encoding. One that the shell closed takes it, too."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - for as long as the process
        else:
            stream.reconfigure(errors="backslashreplace")


def _flush() -> None:
    """Write out standard output while an error can still be told of. It is let go of then: it would fail again."""
    try:
        sys.stdout.flush()
    except OSError:
        discard(sys.stdout)
        raise


def _described(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{click.format_filename(error.filename)}: {reason}" if error.filename else f"standard output: {reason}"


def _fail(message: str, exit_code: int) -> None:
    """Tell of an error in one line, whatever characters stand in the names of files and fields."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
    tell(f"error: {line}")
    sys.exit(exit_code)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lostgan-serve")
def main() -> None:
    """Layout in, picture and masks out: LostGAN, exported to ONNX and served by Triton."""
