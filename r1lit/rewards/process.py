"""Child processes that talk over a socket, live in a process group of their own, and die whole."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

# The child must load the very r1lit that started it, whatever else is installed, and nothing of the working directory.
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); import r1lit; sys.path.pop(0); "
    "import importlib; importlib.import_module(sys.argv[2]).main(int(sys.argv[3]))"
)
_ROOT = str(Path(__file__).resolve().parents[2])
_PR_SET_PDEATHSIG = 1


class Child:
    """A Python process running ``main(descriptor)`` of a module, and the parent's end of the socket to it.

    Its standard output goes to standard error, so that nothing it prints is taken for a message.
    """

    def __init__(self, module: str):
        self.connection, theirs = Pipe()
        command = [sys.executable, "-P", "-c", _BOOT, _ROOT, module, str(theirs.fileno())]
        # Helper processes with threads of their own would slow the training beside them several times over.
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=2,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            env=os.environ | threads,
        )
        theirs.close()

    def signal(self) -> None:
        """Kill the process and whatever it started, without waiting for their end."""
        # The group outlives its leader where a reward left processes behind.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def kill(self) -> str:
        """Kill the process and whatever it started; how it ended, which is its own doing if it was dying already."""
        self.signal()
        self.process.wait()
        self.connection.close()
        return describe_end(self.process.returncode)


def describe_end(returncode: int) -> str:
    """How a process ended, in words.

    >>> describe_end(3), describe_end(-9)
    ('it exited with status 3', 'it was killed by SIGKILL')
    """
    if returncode < 0:
        return f"it was killed by {signal.Signals(-returncode).name}"
    return f"it exited with status {returncode}"


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies, even if it hangs then (Linux; elsewhere nothing)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def connection_to_parent(descriptor: int) -> Connection:
    """The child's end of the socket."""
    os.set_inheritable(descriptor, False)
    return Connection(descriptor)
