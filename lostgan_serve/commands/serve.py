"""The command `serve`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lostgan_serve.triton.addresses import GRPC_PORT, HTTP_PORT, LOOPBACK, METRICS_PORT

if TYPE_CHECKING:
    from lostgan_serve.triton.server import Endpoints

_PORT = click.IntRange(0, 65535)


@click.command()
@click.option(
    "--repository",
    default="triton_repo",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder with a folder for each model, as `lostgan-serve export` makes it.",
)
@click.option("--http-port", default=HTTP_PORT, show_default=True, type=_PORT, help="0 for any free port.")
@click.option("--grpc-port", default=GRPC_PORT, show_default=True, type=_PORT, help="0 for any free port.")
@click.option(
    "--metrics-port", default=METRICS_PORT, show_default=True, type=_PORT, help="For Prometheus; 0 for any free port."
)
@click.option(
    "--host",
    default=LOOPBACK,
    show_default=True,
    help="Address or name of this machine to listen at; 0.0.0.0 for all of its addresses.",
)
@click.option("--verbose", is_flag=True, help="Show every line of the server's log.")
def serve(repository: Path, http_port: int, grpc_port: int, metrics_port: int, host: str, verbose: bool) -> None:
    """Serve every exported model with Triton, on this machine only unless --host says otherwise.

    Where the process of a model dies, the server is started again, up to three times in five minutes.

    \b
    Examples:
      lostgan-serve serve
      lostgan-serve serve --repository demo_out/triton_repo --http-port 0 --grpc-port 0 --metrics-port 0
    """
    from lostgan_serve.progress import ConsoleProgress
    from lostgan_serve.triton.server import serve as run

    ports = (http_port, grpc_port, metrics_port)
    sys.exit(run(repository, *ports, host, on_ready=_print, progress=ConsoleProgress(), verbose=verbose))


def _print(endpoints: Endpoints) -> None:
    click.echo(f"HTTP     http://{endpoints.http}")
    click.echo(f"gRPC     {endpoints.grpc}")
    click.echo(f"metrics  http://{endpoints.metrics}/metrics")
    click.echo(f"models   {', '.join(endpoints.models)}")
    click.echo("Ctrl-C stops the server.")
