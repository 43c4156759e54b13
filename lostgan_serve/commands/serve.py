"""The command `serve`."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
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
