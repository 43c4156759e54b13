"""Faults of networks, disks, memory, model files and clocks."""

from __future__ import annotations

import random
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from relays import address_of

# Connections


class Cutter:
    """A relay whose connections are reset after a random number of bytes, in either direction.

    cuts: how many were. longest: the most bytes that pass.
    """

    def __init__(self, target: str, draw: random.Random, longest: int) -> None:
        self.cuts, self._target, self._draw, self._longest = 0, target, draw, longest
        self._lock = threading.Lock()

    def __call__(self, client: socket.socket) -> None:
        with socket.create_connection(address_of(self._target)) as server:
            with self._lock:
                left = [self._draw.randint(1, self._longest)]
            other = threading.Thread(target=self._pass_on, args=(client, server, left), daemon=True)
            other.start()
            self._pass_on(server, client, left)
            other.join()

    def _pass_on(self, source: socket.socket, sink: socket.socket, left: list[int]) -> None:
        with suppress(OSError):
            while data := source.recv(8192):
                sink.sendall(data[: max(0, left[0])])
                left[0] -= len(data)
                if left[0] <= 0:
                    break
        if left[0] <= 0:
            with self._lock:
                self.cuts += 1
            for end in (source, sink):
                reset(end)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


def reset(connection: socket.socket) -> None:
    """End a connection so that the other side is told of a reset."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)
    with suppress(OSError):
        connection.close()


@contextmanager
def idle(netloc: str, count: int) -> Iterator[list[socket.socket]]:
    """Connections that say nothing, as many of `count` as there can be."""
    with ExitStack() as stack:
        held = []
        with suppress(OSError):
            for _ in range(count):
                held.append(stack.enter_context(socket.create_connection(address_of(netloc), timeout=2)))
        yield held


@contextmanager
def trickling(netloc: str, message: bytes, count: int, pause_s: float = 0.3) -> Iterator[None]:
    """Clients that each send a message a byte at a time, and read nothing."""
    stop = threading.Event()

    def send() -> None:
        with suppress(OSError), socket.create_connection(address_of(netloc)) as connection:
            for byte in message:
                connection.sendall(bytes([byte]))
                if stop.wait(pause_s):
                    return

    threads = [threading.Thread(target=send, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)


# Machines with little room


def few_files(count: int) -> list[str]:
    """Words before a command that may open so many files, its standard streams included."""
    return ["prlimit", f"--nofile={count}:{count}"]


def small_disk(folder: Path, kib: int) -> list[str]:
    """Words before a command that sees a disk of `kib` KiB at `folder`. When it ends, the disk's files are copied to
    the folder itself, so that one can look at what was left on it."""
    folder.mkdir(exist_ok=True)
    script = (
        'mkdir -p "$1.kept"; mount -t tmpfs -o size=$2k tmpfs "$1" || exit 99; d=$1; shift 2; "$@"; rc=$?; '
        'cp -a "$d/." "$d.kept/"; exit $rc'
    )
    return in_a_namespace(script, str(folder), str(kib))


def little_shared_memory(kib: int) -> list[str]:
    """Words before a command that has so much shared memory."""
    script = 'mount -t tmpfs -o size=$1k tmpfs /dev/shm || exit 99; shift; exec "$@"'
    return in_a_namespace(script, str(kib))


def in_a_namespace(script: str, *words: str) -> list[str]:
    """Words before a command that a shell script runs with mounts of its own. Skips the test where that needs root."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("only root can mount a small disk for one command")
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *words]


@contextmanager
def no_more_files(pid: int) -> Iterator[None]:
    """A process may open none, and accept no connection, while the block runs."""
    before = limits(pid)
    limit_files(pid, len(list(Path(f"/proc/{pid}/fd").iterdir())), before[1])
    try:
        yield
    finally:
        limit_files(pid, *before)


def limits(pid: int) -> tuple[int, int]:
    """The soft and the hard limit of a process's open files."""
    lines = Path(f"/proc/{pid}/limits").read_text("utf-8").splitlines()
    ((soft, hard),) = [line.split()[3:5] for line in lines if line.startswith("Max open files")]
    return int(soft), int(hard)


def limit_files(pid: int, soft: int, hard: int) -> None:
    subprocess.run(["prlimit", f"--pid={pid}", f"--nofile={soft}:{hard}"], check=True)


@contextmanager
def filled_shared_memory(pid: int) -> Iterator[None]:
    """The shared memory of a process with one of its own is full while the block runs."""
    filler = Path(f"/proc/{pid}/root/dev/shm/filler")
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        filler.unlink()


# Files


def damage(path: Path, how: str, draw: random.Random) -> None:
    """Change a file in place: flip a `bit`, cut its `end` off, make a part of it `zeros`, or leave it `empty`."""
    data = bytearray(path.read_bytes())
    place = draw.randrange(len(data))
    if how == "bit":
        data[place] ^= 1 << draw.randrange(8)
    elif how == "zeros":
        data[place : place + 64] = bytes(min(64, len(data) - place))
    else:
        del data[place if how == "end" else 0 :]
    path.write_bytes(data)


def replace_file(path: Path, data: bytes) -> None:
    """Put a file in another's place at once, as a deployment does."""
    fresh = path.with_suffix(".fresh")
    fresh.write_bytes(data)
    fresh.replace(path)


# Clocks

_CLOCK = Path(__file__).with_name("clock.c")


def stepped_clock(folder: Path, draw: random.Random, steps_s: Sequence[int], period_ms: int) -> dict[str, str]:
    """Environment of processes whose wall clock jumps while the file `jumping` is in the folder: it is off by one of
    `steps_s` seconds, another one after every `period_ms` milliseconds, and by the same in all of them. Skips the test
    where there is no C compiler."""
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("a clock that jumps needs a C compiler")
    library = folder / "clock.so"
    macros = {
        "STEPS": ",".join(map(str, steps_s)),
        "PERIOD_MS": f"{period_ms}UL",
        "SEED": str(draw.randrange(2**16)),
        "FLAG": f'"{folder / "jumping"}"',
    }
    words = [f"-D{name}={value}" for name, value in macros.items()]
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", *words, "-o", library, _CLOCK, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library)}
