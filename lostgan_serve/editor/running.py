"""The editor as it runs: a port of this machine, and uvicorn there, with limits on connections, until it is stopped."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from contextlib import closing

from lostgan_serve.choices import EDITOR_PORT
from lostgan_serve.editor.answers import Editor
from lostgan_serve.editor.guard import HEADERS, LIMITS, EditorLimits, Site
from lostgan_serve.editor.server import Queue, application
from lostgan_serve.editor.token import kept_token
from lostgan_serve.encoding import check
from lostgan_serve.errors import require
from lostgan_serve.layout import Layout
from lostgan_serve.progress import SILENT, Progress
from lostgan_serve.runners import Runner
from lostgan_serve.triton.addresses import LOOPBACK, endpoint, listen, resolve
from lostgan_serve.web.server import http_server


def edit(
    runner: Runner,
    layout: Layout | None = None,
    *,
    host: str = LOOPBACK,
    port: int = EDITOR_PORT,
    name: str = "model",
    command: Sequence[str] = ("lostgan-serve", "generate", "-"),
    limits: EditorLimits = LIMITS,
    on_ready: Callable[[str], object] = print,
    progress: Progress = SILENT,
) -> None:
    """Serve the editor until Ctrl-C or SIGTERM.

    layout: that the page begins with. host: address or name of this machine to listen at. port: 0 for a free one. name,
    command: see `Editor`. on_ready: takes the URL to open, the token in it. Raises LayoutError for a layout that the
    model cannot generate or a browser cannot hold, ServerError for an address or port that cannot be used, and
    MissingExtraError.
    """
    require_packages()
    if layout is not None:
        check(layout, runner.manifest)
    ip = resolve(host)
    with listen(ip, port, "--port") as listening, closing(Queue(runner.concurrency, limits.waiting)) as queue:
        site, token = Site(host, ip, int(listening.getsockname()[1])), kept_token(progress)
        app = application(Editor(runner, name, command, layout), queue, site, token, limits, progress)
        if not ipaddress.ip_address(ip).is_loopback:
            progress.note(
                f"warning: --host {host} lets others reach the editor, and there is no TLS: whoever listens on the "
                "network can read the token"
            )
        on_ready(f"http://{endpoint(ip, site.port)}/#token={token}")
        http_server(app, limits, HEADERS).run([listening])


def require_packages() -> None:
    """Raise MissingExtraError unless what the editor needs is installed."""
    for package in ("starlette", "uvicorn"):
        require(package, "editor")
