"""The commands `generate` and `client`: layouts in, pictures out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lostgan_serve.choices import DEFAULT_PICTURES, MAX_SEED, PICTURES, RUNNER_VARIABLE
from lostgan_serve.commands.connection import ServerOptions, server_options
from lostgan_serve.commands.options import GroupedCommand, ListOf, grouped, one_of
from lostgan_serve.errors import LayoutError

if TYPE_CHECKING:
    from lostgan_serve.layout import Layout
    from lostgan_serve.progress import Progress
    from lostgan_serve.runners import Runner

_MAX_SAMPLES = 10_000
_LISTED = 8  # layouts whose files are listed; of more there is a bar


_styles, _files, _models = grouped("Styles"), grouped("Pictures"), grouped("Model")

seed_option = _styles(
    "--seed",
    type=click.IntRange(0, MAX_SEED),
    help="Seed of the first style, in place of the layouts' own. Objects with a seed keep it.",
)
out_option = _files(
    "--out",
    default="out",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write the pictures to.",
)

_SAMPLE_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.argument("layouts", nargs=-1, required=True, type=click.Path()),
    _styles(
        "--samples",
        default=1,
        show_default=True,
        type=click.IntRange(1, _MAX_SAMPLES),
        help="Number of styles to generate of each layout.",
    ),
    seed_option,
    out_option,
    _files(
        "--only",
        "pictures",
        default=DEFAULT_PICTURES,
        type=ListOf("KINDS", one_of(PICTURES)),
        help=f"Kinds of pictures to write, with commas between: {', '.join(PICTURES)}. An overlay shows image, boxes "
        "and masks; the sheet shows the first eight layouts side by side.  [default: all but masks]",
    ),
    _files("--masks", is_flag=True, help="Write a PNG of each object's mask, too."),
    _files("--overwrite", is_flag=True, help="Generate pictures again that are there already."),
)


_MODEL_OPTIONS = (
    _models(
        "--model",
        default="triton_repo/lostgan_128",
        show_default=True,
        type=click.Path(),
        help="A model's folder in the repository, or a model.onnx file.",
    ),
    _models(
        "--runner",
        default="auto",
        show_default=True,
        envvar=RUNNER_VARIABLE,
        show_envvar=True,
        help="Library that runs the model: onnxrt, openvino, or tensorrt for an engine that export built.",
    ),
)


def model_options(command: Any) -> Any:
    """Add the options that say which model runs in this process, and what runs it."""
    for option in reversed(_MODEL_OPTIONS):
        command = option(command)
    return command


def _sample_options(command: Any) -> Any:
    """Add what `client` and `generate` share."""
    for option in reversed(_SAMPLE_OPTIONS):
        command = option(command)
    return command


@click.command(cls=GroupedCommand)
@_sample_options
@server_options
@grouped("Server")("--model", help="Model to ask; needed where the server has several.  [default: the only one]")
def client(layouts: tuple[str, ...], server: ServerOptions, model: str | None, **options: Any) -> None:
    """Send layouts to a Triton server and write the pictures that it generates.

    LAYOUTS are files: one layout, a JSON list of them, or JSON lines; - reads standard input. Pictures that are there
    already, of the same layout and model, are kept: a call that was interrupted goes on where it stopped. A server that
    restarts is waited for. A layout that fails is named, and the others go on.

    \b
    Example:  lostgan-serve client examples/*.json --url localhost:8001 --out out
    """
    from lostgan_serve.progress import ConsoleProgress

    progress = ConsoleProgress()
    _write_samples(layouts, lambda: server.open(model, progress), progress, **options)


@click.command(cls=GroupedCommand)
@_sample_options
@model_options
def generate(layouts: tuple[str, ...], model: str, runner: str, **options: Any) -> None:
    """Generate pictures of layouts in this process, without a server.

    LAYOUTS are files: one layout, a JSON list of them, or JSON lines; - reads standard input. Pictures that are there
    already, of the same layout and model, are kept: a call that was interrupted goes on where it stopped. A layout that
    fails is named, and the others go on.

    \b
    Example:  lostgan-serve generate layout.json --samples 4 --out out
    """
    from lostgan_serve.progress import ConsoleProgress
    from lostgan_serve.runners import open_runner

    progress = ConsoleProgress()
    _write_samples(layouts, lambda: open_runner(runner, model, progress), progress, **options)


def _write_samples(
    sources: tuple[str, ...],
    connect: Callable[[], Runner],
    progress: Progress,
    samples: int,
    seed: int | None,
    out: Path,
    pictures: tuple[str, ...],
    masks: bool,
    overwrite: bool,
) -> None:
    """Read everything and check everything, then generate and write: bad input costs no inference."""
    from lostgan_serve.encoding import check
    from lostgan_serve.files import writable
    from lostgan_serve.samples import SHEET_FILE, SampleSet, note_untrained, styles

    if sources.count("-") > 1:
        raise LayoutError("-: standard input can be read only once; give - once")
    layouts = [
        style for source in sources for layout in read_layouts(source) for style in styles(layout, samples, seed)
    ]
    sample_set = SampleSet(out, (*pictures, "masks") if masks else pictures)
    sample_set.check(layouts)
    with writable(out), closing(connect()) as runner:
        for layout in layouts:
            check(layout, runner.manifest)
        note_untrained(runner.manifest, progress)
        for path in sample_set.fill(layouts, runner, overwrite=overwrite, progress=progress):
            if len(layouts) <= _LISTED or path.name == SHEET_FILE:
                click.echo(click.format_filename(path))


def read_layouts(source: str) -> list[Layout]:
    """The layouts of a file, or those on standard input for -. Raises LayoutError."""
    from lostgan_serve.layout import MAX_FILE_BYTES, load_layouts, parse_layouts

    if source == "-":
        if sys.stdin is None:
            raise LayoutError("standard input is closed; pipe layouts into this command, or name their files")
        try:
            data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise LayoutError(f"standard input: cannot be read ({error.strerror})") from error
        if len(data) > MAX_FILE_BYTES:
            raise LayoutError(f"standard input: over {MAX_FILE_BYTES >> 20} MiB; give layouts in several files")
        return parse_layouts(data, "stdin", "standard input")
    return load_layouts(source)


def read_layout(source: str) -> Layout:
    """The only layout of a file, or that on standard input for -. Raises LayoutError where there are several."""
    layouts = read_layouts(source)
    if len(layouts) != 1:
        raise LayoutError(f"{source}: holds {len(layouts)} layouts; give a file with one")
    return layouts[0]
