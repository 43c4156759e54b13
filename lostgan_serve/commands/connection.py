"""Options of the commands that ask a server."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from lostgan_serve.choices import GRPC_PORT
from lostgan_serve.commands.options import Number, grouped

if TYPE_CHECKING:
    from lostgan_serve.progress import Progress
    from lostgan_serve.runners.triton import TritonRunner

_server = grouped("Server")

_TLS_OPTIONS = {"tls_ca": "--tls-ca", "tls_cert": "--tls-cert", "tls_key": "--tls-key"}


@dataclass(frozen=True)
class ServerOptions:
    """A server, and how to reach it; see `TritonRunner`."""

    url: str
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    patience_s: float | None = None

    def open(self, model: str | None, progress: Progress) -> TritonRunner:
        """Connect to a model of the server. Raises what `TritonRunner` does."""
        from lostgan_serve.runners.triton import Certificates, TritonRunner

        certificates = Certificates(self.ca, self.cert, self.key)
        return TritonRunner(self.url, model, certificates=certificates, patience_s=self.patience_s, progress=progress)

    def arguments(self) -> list[str]:
        """The words of a command line that mean this server, but for the patience."""
        files = {_TLS_OPTIONS[f"tls_{name}"]: getattr(self, name) for name in ("ca", "cert", "key")}
        return ["--url", self.url, *(word for option, file in files.items() if file for word in (option, str(file)))]


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a server, which it takes as the parameter `server`: ServerOptions."""
    return _connected(command, default_url=f"localhost:{GRPC_PORT}")


def optional_server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """As `server_options`, for a command that can do without: `server` is None where no --url is given."""
    return _connected(command, default_url=None)


def asked_model(model: str) -> str | None:
    """The model to ask a server for, of a command whose --model names one in this process where there is no --url; None
    where it was not given. Raises ModelError for a --runner beside --url."""
    from lostgan_serve.errors import ModelError

    given = click.get_current_context().get_parameter_source
    if given("runner") is ParameterSource.COMMANDLINE:
        raise ModelError("--runner: the model runs on the server of --url; leave out one of them")
    return None if given("model") is ParameterSource.DEFAULT else model


def _connected(command: Callable[..., Any], default_url: str | None) -> Callable[..., Any]:
    @functools.wraps(command)
    def connected(
        *arguments: Any,
        url: str | None,
        tls_ca: Path | None,
        tls_cert: Path | None,
        tls_key: Path | None,
        patience: float | None,
        **options: Any,
    ) -> Any:
        _refuse_certificates_without_tls(url)
        server = None if url is None else ServerOptions(url, tls_ca, tls_cert, tls_key, patience)
        return command(*arguments, server=server, **options)

    url_option = _server("--url", default=default_url, show_default=True, help=_URL_HELP)
    for option in reversed((url_option, *_OPTIONS)):
        connected = option(connected)
    return connected


def _refuse_certificates_without_tls(url: str | None) -> None:
    """Raise ServerError for certificates on the command line that an address without TLS makes no use of. Those of the
    environment are for whichever server needs them."""
    from lostgan_serve.errors import ServerError
    from lostgan_serve.runners.triton import ServerAddress

    context = click.get_current_context()
    given = [
        option
        for name, option in _TLS_OPTIONS.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if url is None:
        if given:
            raise ServerError(f"{given[0]}: there is no server to use it for; give --url, too")
        return
    address = ServerAddress.parse(url)
    if given and not address.tls:
        raise ServerError(f"{given[0]}: {address} is not encrypted; give --url {address.with_tls(True)}")


def _tls_option(name: str, description: str) -> Callable[[Any], Any]:
    return _server(
        _TLS_OPTIONS[name],
        name,
        type=click.Path(path_type=Path),
        envvar=f"LOSTGAN_SERVE_{name.upper()}",
        show_envvar=True,
        help=description,
    )


_URL_HELP = "The server's address: HOST:PORT of its gRPC, or grpc://, grpcs:// (TLS), http:// or https://HOST:PORT."

_OPTIONS = (
    _tls_option(
        "tls_ca", "PEM file of the authorities that may sign the server's certificate.  [default: the system's]"
    ),
    _tls_option("tls_cert", "PEM file of this client's certificate, for a server that asks for one."),
    _tls_option("tls_key", "PEM file of that certificate's key.  [default: the file of --tls-cert]"),
    _server(
        "--patience",
        type=Number(0, 86_400),
        metavar="SECONDS",
        help="How long to wait for a server that is away.  [default: 60 where it answered before, else 0]",
    ),
)
