"""Starting processes that end with this one, however it went."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

# Execs its arguments as a process that is sent SIGTERM when this one is gone, however it went, and that may have as
# many connections as the system allows. A preexec_fn would fork this process instead, and gRPC's threads with it.
_LAUNCHER = """\
import ctypes, os, resource, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1 is PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]): sys.exit(1)
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
os.execv(sys.argv[2], sys.argv[2:])
"""


def launched(command: Sequence[str], **settings: Any) -> subprocess.Popen[str]:
    """Start a process of a session of its own, whose output comes as lines. settings: more of Popen's."""
    return subprocess.Popen(
        [sys.executable, "-ISc", _LAUNCHER, str(os.getpid()), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches us alone; and all its children can be ended together
        encoding="utf-8",
        errors="replace",
        **settings,
    )
