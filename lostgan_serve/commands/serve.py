"""The command `serve`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lostgan_serve.choices import GRPC_PORT, HTTP_PORT, METRICS_PORT
from lostgan_serve.commands.options import GroupedCommand, grouped
from lostgan_serve.errors import LostganError
from lostgan_serve.triton.addresses import ALL, LOOPBACK

if TYPE_CHECKING:
    from lostgan_serve.progress import JsonLines
    from lostgan_serve.triton.check import Finding
    from lostgan_serve.triton.server import Endpoints

_models, _addresses, _network = grouped("Models"), grouped("Addresses"), grouped("Network")
_file = click.Path(path_type=Path, readable=False)  # what reads it says so better


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
    help=f"Address or name of this machine to listen at; 0.0.0.0 for all of its addresses.  [default: {LOOPBACK}]",
)
@_port("--http-port", HTTP_PORT, "HTTP")
@_port("--grpc-port", GRPC_PORT, "gRPC")
@_port("--metrics-port", METRICS_PORT, "Prometheus's requests for metrics")
@_network(
    "--public",
    is_flag=True,
    help="Listen at all addresses of this machine. It needs a certificate, or --without-tls.",
)
@_network("--tls-cert", type=_file, metavar="FILE", help="Certificate in PEM, with which all ports are encrypted.")
@_network("--tls-key", type=_file, metavar="FILE", help="Its key in PEM; by default in the same file.")
@_network(
    "--without-tls",
    is_flag=True,
    help="With --public: serve without encryption; others on the network can read and change what is sent.",
)
@_network(
    "--direct",
    is_flag=True,
    help="Let tritonserver itself face the network, without the gateway's limits, where a proxy stands before it.",
)
@_network(
    "--check",
    "only_check",
    is_flag=True,
    help="Start the server on this machine alone, look at its version, doors and room, print the findings, and end it. "
    "Exit code 1 where others should not be let in.",
)
@click.option(
    "--log",
    "log_form",
    default="text",
    show_default=True,
    type=click.Choice(["text", "json"]),
    help="Form of what is told: lines for people, or a JSON object a line on standard error.",
)
@click.option("--verbose", is_flag=True, help="Show every line of the server's log.")
def serve(
    repository: Path,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    host: str | None,
    public: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    without_tls: bool,
    direct: bool,
    only_check: bool,
    log_form: str,
    verbose: bool,
) -> None:
    """Serve every exported model with Triton, on this machine only unless --host or --public says otherwise.

    A gateway with limits stands before tritonserver. Where a process dies or stops, or a model gives no answers or
    wrong ones, the server is started again, up to three times in five minutes.

    \b
    Examples:
      lostgan-serve serve
      lostgan-serve serve --repository demo_out/triton_repo --http-port 0 --grpc-port 0 --metrics-port 0
      lostgan-serve serve --public --tls-cert server.pem --tls-key server.key
    """
    from lostgan_serve.progress import ConsoleProgress, JsonLines
    from lostgan_serve.runners.triton.tls import Certificates
    from lostgan_serve.triton.check import check
    from lostgan_serve.triton.exposure import Exposure
    from lostgan_serve.triton.server import serve as run

    if public and host is not None:
        raise LostganError("--public: it stands for --host 0.0.0.0; leave one of them out")
    if without_tls and not public:
        raise LostganError("--without-tls: it goes with --public")
    if public and not (tls_cert or without_tls):
        raise LostganError("--public: give --tls-cert, or say --without-tls")
    exposure = Exposure(
        host if host is not None else (ALL if public else LOOPBACK),
        (http_port, grpc_port, metrics_port),
        Certificates(cert=tls_cert, key=tls_key),
        direct,
    )
    if only_check:
        sys.exit(_tell(check(repository, exposure)))
    if log_form == "json":
        log = JsonLines()
        sys.exit(run(repository, exposure, on_ready=partial(_log, log), progress=log, verbose=verbose))
    sys.exit(run(repository, exposure, on_ready=_print, progress=ConsoleProgress(), verbose=verbose))


def _tell(findings: Iterable[Finding]) -> int:
    """Print findings as they come. Returns 1 where one of them is a fault."""
    code = 0
    for finding in findings:
        click.echo(f"{finding.level:8} {finding.text}")
        code = max(code, int(finding.level == "fault"))
    return code


def _log(log: JsonLines, endpoints: Endpoints) -> None:
    places = {name: getattr(endpoints, name) for name in ("http", "grpc", "metrics", "models", "tls")}
    log.event("ready", **places)


def _print(endpoints: Endpoints) -> None:
    scheme = "https" if endpoints.tls else "http"
    click.echo(f"HTTP     {scheme}://{endpoints.http}")
    click.echo(f"gRPC     {'grpcs://' if endpoints.tls else ''}{endpoints.grpc}")
    click.echo(f"metrics  {scheme}://{endpoints.metrics}/metrics")
    click.echo(f"models   {', '.join(endpoints.models)}")
    click.echo("Ctrl-C stops the server.")
