"""A target that some inputs end the process of; in a file of its own, which is imported soon."""

from __future__ import annotations

import os
import signal

from fuzz.targets import Fuzzed, Materials


def open_killer(_: Materials) -> Fuzzed:
    def target(data: bytes) -> None:
        if len(data) == 3:
            raise IndexError
        if len(data) == 5:
            os.kill(os.getpid(), signal.SIGSEGV)

    return Fuzzed(target, [b"1234"], lambda random, _: b"x" * random.randrange(6))
