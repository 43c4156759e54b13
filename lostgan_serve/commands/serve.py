"""The command `serve`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lostgan_serve.choices import GRPC_PORT, HTTP_PORT, METRICS_PORT
from lostgan_serve.commands.options import GroupedCommand, grouped
from lostgan_serve.triton.addresses import LOOPBACK

if TYPE_CHECKING:
    from lostgan_serve.triton.server import Endpoints

_models, _addresses = grouped("Models"), grouped("Addresses")


def _port(option: str, default: int, purpose: str) -> Callable[[Any], Any]:
    return _addresses(
        option,
        default=default,
        show_default=True,
        type=click.IntRange(0, 65535),
        help=f"Port to answer {purpose} at, or 0 to have a free one chosen.",
    )


@click.command(cls=GroupedCommand)
@_models(
    "--repository",
    default="triton_repo",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Model repository to serve: a folder with one for each model, as `lostgan-serve export` makes it.",
)
@_addresses(
    "--host",
    default=LOOPBACK,
    show_default=True,
    help="Address or name of this machine to listen at; 0.0.0.0 for all of its addresses.",
)
@_port("--http-port", HTTP_PORT, "HTTP")
@_port("--grpc-port", GRPC_PORT, "gRPC")
@_port("--metrics-port", METRICS_PORT, "Prometheus's requests for metrics")
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
