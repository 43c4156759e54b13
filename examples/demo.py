"""The whole path in one go (`make demo`): export, serve, generate pictures of the examples, one of 512 px, stop.

Each step prints the command that does the same by hand. Everything it makes is in demo_out/.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from lostgan_serve.triton.server import running_server

OUT = Path("demo_out")
LARGE = OUT / "512px"
LARGE_LAYOUT = Path("examples/mountain-lake.json")
REPOSITORY = OUT / "triton_repo"


def main() -> None:
    """Run from the repository's root."""
    for resolution in (128, 512):
        command("export", "--res", resolution, "--repository", REPOSITORY, "--replace")
    click.secho(f"$ lostgan-serve serve --repository {REPOSITORY}", bold=True)
    with running_server(REPOSITORY) as endpoints:
        layouts = sorted(Path("examples").glob("*.json"))
        command("client", *layouts, "--model", "lostgan_128", "--url", endpoints.grpc, "--out", OUT)
        command("client", LARGE_LAYOUT, "--model", "lostgan_512", "--url", endpoints.grpc, "--out", LARGE)
    image = LARGE / f"{LARGE_LAYOUT.stem}.png"
    click.echo(f"the server has stopped; look at {OUT / 'contact-sheet.png'} first, then at {image}")


def command(*arguments: object) -> None:
    words = [str(argument) for argument in arguments]
    click.secho(f"$ lostgan-serve {' '.join(words)}", bold=True)
    subprocess.run([Path(sys.executable).parent / "lostgan-serve", *words], check=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as failed:
        sys.exit(failed.returncode)
