"""The command `bench-soak`."""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path

import click

from lostgan_export.commands.export import require_export
from lostgan_serve.commands.connection import ServerOptions, server_options
from lostgan_serve.commands.options import GroupedCommand, Number, grouped

_traffic, _figures = grouped("Traffic"), grouped("Figures")


@click.command(cls=GroupedCommand)
@server_options
@grouped("Server")("--model", help="Model to ask; needed where the server has several.  [default: the only one]")
@grouped("Server")(
    "--pid",
    type=click.IntRange(1),
    help="Process of `lostgan-serve serve`, where it runs on this machine: the memory of its processes is measured.",
)
@_traffic("--minutes", default=30.0, show_default=True, type=Number(0, min_open=True), help="Length of the soak.")
@_traffic(
    "--share",
    default=0.9,
    show_default=True,
    type=Number(0, 2, min_open=True),
    help="Requests a second that are sent, as a share of the server's capacity.",
)
@_traffic(
    "--wrong",
    default=0.05,
    show_default=True,
    type=Number(0, 1),
    help="Part of the requests that is wrong on purpose: unknown labels, NaN, wrong shapes, cut connections.",
)
@_traffic(
    "--capacity-seconds",
    "capacity_s",
    default=60.0,
    show_default=True,
    type=Number(0, min_open=True),
    help="How long to look for the capacity before the soak.",
)
@_traffic("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the random moments and kinds.")
@_figures("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="File to write the figures to.")
@_figures("--plot", type=click.Path(dir_okay=False, path_type=Path), help="PNG to draw the figures to.")
def bench_soak(
    server: ServerOptions,
    model: str | None,
    pid: int | None,
    minutes: float,
    share: float,
    wrong: float,
    capacity_s: float,
    seed: int,
    json_file: Path | None,
    plot: Path | None,
) -> None:
    """Send a server mixed traffic for long, and measure memory, errors and latencies.

    Finds the server's capacity first, by clients that each wait for their answer. Then layouts come one by one at
    random moments, at a share of it; some requests are wrong on purpose and have to be refused. Prints tables in
    Markdown.

    \b
    Example:  lostgan-serve bench-soak --url localhost:8001 --pid $(pgrep -of "lostgan-serve serve") --json soak.json
    """
    require_export()
    from lostgan_export.bench.report import machine
    from lostgan_export.bench.soak import Traffic, soak
    from lostgan_export.bench.soak_report import soak_lines, soak_plot
    from lostgan_serve.files import writable, write_file
    from lostgan_serve.progress import ConsoleProgress

    progress = ConsoleProgress()
    if server.patience_s is None:
        server = replace(server, patience_s=0.0)  # a server that is away is to be seen, not to be waited for
    traffic = Traffic(minutes, share, wrong, capacity_s, seed)
    with ExitStack() as stack:
        for path in filter(None, (json_file, plot)):
            stack.enter_context(writable(path.parent))
        runner = stack.enter_context(closing(server.open(model, progress)))
        soaked = soak(runner, traffic, pid, progress)
        click.echo("\n".join(soak_lines(soaked)))
        if json_file:
            figures = {"machine": machine(), "model": runner.model, "traffic": asdict(traffic)} | asdict(soaked)
            write_file(json_file, (json.dumps(figures, indent=1) + "\n").encode())
        if plot:
            title = f"{runner.model}, {share:.0%} of {soaked.capacity_per_s:.1f} layouts/s"
            write_file(plot, soak_plot(soaked, title))
