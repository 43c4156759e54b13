"""The command line. Commands of other parts of the package (`export`, `import`, ...) join through entry points.

Nothing heavy is imported before a command needs it, so that --help answers at once.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from lostgan_serve import __version__
from lostgan_serve.errors import LayoutError, LostganError

if TYPE_CHECKING:
    from lostgan_serve.layout import Layout
    from lostgan_serve.pipeline import Result
    from lostgan_serve.runners import Runner

_SHEET_COLUMNS = 8
_SHEET_NAME = "contact-sheet.png"
_MAX_SAMPLES = 10_000
_MAX_SEED = 2**63 - 1  # that of `layout`, which takes too long to import for --help


class _Commands(click.Group):
    """The built-in commands and those of the entry points "lostgan_serve.commands", each loaded on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_plugins()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        point = _plugins().get(cmd_name)
        return cast(click.Command, point.load()) if point else super().get_command(ctx, cmd_name)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run; an error that the user can mend becomes one line and its exit code."""
        try:
            return super().main(*args, **kwargs)
        except LostganError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(error.exit_code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run; Ctrl-C ends it at once (but for `train` and `semi`, which take it themselves, to save their state)."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            os._exit(130)  # a usual exit would wait for the threads whose batches are in flight


def _plugins() -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group="lostgan_serve.commands")}


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lostgan-serve")
def main() -> None:
    """Layout in, picture and masks out: LostGAN, exported to ONNX and served by Triton."""


@main.command()
@click.option("--vocabulary", default="coco-stuff", show_default=True, help="coco-stuff, visual-genome or scenes.")
def labels(vocabulary: str) -> None:
    """List what may stand in a layout's "label"."""
    from lostgan_serve.vocabulary import Vocabulary

    for label in Vocabulary.built_in(vocabulary):
        click.echo(label)


def _drawing_options(command: Any) -> Any:
    """What `client` and `generate` share."""
    options: tuple[Callable[[Any], Any], ...] = (
        click.argument("layouts", nargs=-1, required=True),
        click.option(
            "--samples",
            default=1,
            show_default=True,
            type=click.IntRange(1, _MAX_SAMPLES),
            help="Styles of each layout.",
        ),
        click.option(
            "--seed", type=click.IntRange(0, _MAX_SEED), help="In place of the layouts' own; objects' seeds stay."
        ),
        click.option("--out", default="out", show_default=True, type=click.Path(path_type=Path), help="Folder."),
        click.option("--masks", is_flag=True, help="Write a PNG of each object's mask, too."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@_drawing_options
@click.option("--url", default="localhost:8001", show_default=True, help="gRPC; http://localhost:8000 for HTTP.")
@click.option("--model", help="Model to ask; needed where the server has several.  [default: the only one]")
def client(layouts: tuple[str, ...], url: str, model: str | None, **drawing: Any) -> None:
    """Send layouts to a Triton server and write the pictures that it paints.

    LAYOUTS are files: one layout, a JSON list of them, or JSON lines; - reads standard input.
    """
    from lostgan_serve.runners.triton import TritonRunner

    _draw(layouts, lambda: TritonRunner(url, model), **drawing)


@main.command()
@_drawing_options
@click.option("--model", default="triton_repo/lostgan_128", show_default=True, help="A model's folder, or model.onnx.")
@click.option(
    "--runner",
    default="auto",
    show_default=True,
    envvar="LOSTGAN_SERVE_RUNNER",
    show_envvar=True,
    help="onnxrt, openvino or tensorrt (runs an engine that export built).",
)
def generate(layouts: tuple[str, ...], model: str, runner: str, **drawing: Any) -> None:
    """Paint layouts in this process, without a server.

    LAYOUTS are files: one layout, a JSON list of them, or JSON lines; - reads standard input.
    """
    from lostgan_serve.runners import open_runner

    _draw(layouts, lambda: open_runner(runner, model, partial(click.echo, err=True)), **drawing)


def _draw(
    sources: tuple[str, ...], connect: Callable[[], Runner], samples: int, seed: int | None, out: Path, masks: bool
) -> None:
    """Read everything, check everything, then paint and write: bad input costs no painting."""
    from lostgan_serve.pipeline import check

    if sources.count("-") > 1:
        raise LayoutError("-: standard input can be read only once; give - once")
    layouts = [variant for source in sources for layout in _read(source) for variant in _styles(layout, samples, seed)]
    _refuse_twins(layouts, masks)
    with _writable(out), closing(connect()) as runner:
        for layout in layouts:
            check(layout, runner.manifest)
        if runner.manifest.weights == "untrained":
            click.echo("note: this model is untrained: its weights are random, and its pictures are noise", err=True)
        _paint(layouts, runner, out, masks)


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Make a folder and see that files can be written to it; what was made goes where the block left it empty.

    Raises OutputError.
    """
    from lostgan_serve.files import writing

    made: list[Path] = []
    try:
        with writing(folder):
            made += [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        yield
    finally:
        for path in made:
            with suppress(OSError):  # not empty: the usual case
                path.rmdir()


def _read(source: str) -> list[Layout]:
    from lostgan_serve.layout import load_layouts, parse_layouts

    if source == "-":
        if sys.stdin is None:
            raise LayoutError("standard input is closed; pipe layouts into this command, or name their files")
        return parse_layouts(sys.stdin.buffer.read().decode("utf-8-sig", "replace"), "stdin", "standard input")
    return load_layouts(source)


def _styles(layout: Layout, samples: int, seed: int | None) -> Iterator[Layout]:
    """The layout in `samples` styles, of the seeds that follow `seed`, or else its own."""
    first = layout.seed if seed is None else seed
    for k in range(samples):
        own = (first + k) % (_MAX_SEED + 1)
        yield replace(layout, seed=own, name=layout.name if samples == 1 else f"{layout.name}.seed{own}")


def _refuse_twins(layouts: list[Layout], masks: bool) -> None:
    """Refuse layouts of which one's file would overwrite another's, also where upper and lower case are the same."""
    from lostgan_serve.render import file_names
    from lostgan_serve.vocabulary import IMAGE_LABEL_NAME

    writers = {_SHEET_NAME: "the contact sheet"} if len(layouts) > 1 else {}
    for layout in layouts:
        owners = [*(item.id for item in layout.objects), IMAGE_LABEL_NAME] if masks else []
        for name in file_names(layout.name, owners):
            if other := writers.get(name.casefold()):
                raise LayoutError(
                    f"{layout.source} and {other}: both would write {name}; rename one of them, "
                    "or draw them in two calls with different --out"
                )
            writers[name.casefold()] = layout.source


def _paint(layouts: list[Layout], runner: Runner, out: Path, masks: bool) -> None:
    from lostgan_serve.files import write_file
    from lostgan_serve.pipeline import generate as paint
    from lostgan_serve.render import contact_sheet, encode, files_of

    sheet: list[Result] = []
    many = len(layouts) > 8 and sys.stderr.isatty()
    with click.progressbar(length=len(layouts), label="painting", file=sys.stderr, hidden=not many) as bar:
        for result in paint(layouts, runner):
            for name, data in files_of(result, masks):
                write_file(out / name, data)
                if not many:
                    click.echo(out / name)
            sheet += [result] if len(sheet) < _SHEET_COLUMNS else []
            bar.update(1)
    if len(layouts) > 1:
        write_file(out / _SHEET_NAME, encode(contact_sheet(sheet)))
        click.echo(out / _SHEET_NAME)


@main.command()
@click.option("--repository", default="triton_repo", show_default=True, type=click.Path(path_type=Path))
@click.option("--http-port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--grpc-port", default=8001, show_default=True, type=click.IntRange(0, 65535))
@click.option("--metrics-port", default=8002, show_default=True, type=click.IntRange(0, 65535))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--verbose", is_flag=True, help="Show every line of the server's log.")
def serve(repository: Path, http_port: int, grpc_port: int, metrics_port: int, host: str, verbose: bool) -> None:
    """Serve every exported model with Triton, on this machine only unless --host says otherwise."""
    from lostgan_serve.triton.server import serve as run

    sys.exit(run(repository, http_port, grpc_port, metrics_port, host=host, verbose=verbose))
