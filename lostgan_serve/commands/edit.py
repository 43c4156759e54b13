"""The command `edit`."""

from __future__ import annotations

import os
import sys
import webbrowser
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lostgan_serve.choices import EDITOR_PORT
from lostgan_serve.commands.connection import ServerOptions, asked_model, optional_server_options
from lostgan_serve.commands.inference import model_options, read_layout
from lostgan_serve.commands.options import GroupedCommand, grouped
from lostgan_serve.triton.addresses import LOOPBACK

if TYPE_CHECKING:
    from lostgan_serve.progress import Progress
    from lostgan_serve.runners import Runner

_page = grouped("Page")

_PATIENCE_S = 1.0  # with a server that is away: the page tells of it, and asks again


@click.command(cls=GroupedCommand)
@click.argument("layout", required=False, type=click.Path())
@model_options
@optional_server_options
@_page(
    "--port",
    default=EDITOR_PORT,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port of the page; 0 for a free one.",
)
@_page("--host", default=LOOPBACK, show_default=True, help="Address or name of this machine that the page is at.")
@_page("--no-browser", is_flag=True, help="Print the page's address alone, and open no browser.")
def edit(
    layout: str | None, model: str, runner: str, server: ServerOptions | None, port: int, host: str, no_browser: bool
) -> None:
    """Draw layouts in the browser and see their pictures at once.

    LAYOUT is a file that the page begins with; - reads standard input. The model runs in this process or, with --url,
    on a Triton server; --model is its name there, which is needed where the server has several.

    \b
    Examples:
      lostgan-serve edit
      lostgan-serve edit layout.json --url localhost:8001
    """
    from lostgan_serve.editor.running import edit as run
    from lostgan_serve.editor.running import require_packages
    from lostgan_serve.progress import ConsoleProgress

    require_packages()  # before a model is loaded
    progress = ConsoleProgress()
    start = None if layout is None else read_layout(layout)
    opened, name, command = _local(model, runner, progress) if server is None else _remote(server, model, progress)

    def ready(url: str) -> None:
        click.echo(f"editor  {url}")
        click.echo("Ctrl-C stops it.")
        if not no_browser and _has_screen():
            webbrowser.open(url)

    with closing(opened):
        run(opened, start, host=host, port=port, name=name, command=command, on_ready=ready, progress=progress)


def _local(model: str, runner: str, progress: Progress) -> tuple[Runner, str, list[str]]:
    """The model in this process, its name, and the command that generates with it."""
    from lostgan_serve.runners import open_runner

    command = ["lostgan-serve", "generate", "-", "--model", model]
    return open_runner(runner, model, progress), Path(model).resolve().name, command


def _remote(server: ServerOptions, model: str, progress: Progress) -> tuple[Runner, str, list[str]]:
    """The model of a server, its name, and the command that generates with it."""
    if server.patience_s is None:
        server = replace(server, patience_s=_PATIENCE_S)
    opened = server.open(asked_model(model), progress)
    return opened, opened.model, ["lostgan-serve", "client", "-", *server.arguments(), "--model", opened.model]


def _has_screen() -> bool:
    """Whether a browser would open a window: one in the terminal is of no use."""
    return sys.platform != "linux" or not {"DISPLAY", "WAYLAND_DISPLAY"}.isdisjoint(os.environ)
