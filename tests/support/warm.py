"""The ``r1lit`` command in processes that are forked from one which has its libraries loaded already.

Loading them takes longer than most of what the tests run. Each command is a process of its own all the same, with its
own directory, arguments, standard streams and exit code; only what is read while libraries load is shared.
"""

from __future__ import annotations

import json
import os
import random
import runpy
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


class Warm:
    """Runs commands one at a time, as ``subprocess.run`` would."""

    def __init__(self):
        self.environment, self._said = surroundings(), b""
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self.environment
        )

    def run(self, arguments: Sequence[str], cwd: Path, timeout: float, scratch: Path) -> subprocess.CompletedProcess:
        """One command; ``scratch`` is where its output is kept meanwhile."""
        streams = [scratch / name for name in ("stdout", "stderr")]
        order = {"arguments": list(arguments), "cwd": str(cwd), "streams": [str(path) for path in streams]}
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        pid = int(self._answer(120.0))
        try:
            code = int(self._answer(timeout))
        except TimeoutError:
            os.killpg(pid, signal.SIGKILL)
            self._answer(60.0)
            raise subprocess.TimeoutExpired(list(arguments), timeout) from None
        out, err = (path.read_text(errors="replace") for path in streams)
        return subprocess.CompletedProcess(["r1lit", *arguments], code, out, err)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(60)

    def _answer(self, seconds: float) -> bytes:
        end = time.monotonic() + seconds
        while b"\n" not in self._said:
            if not select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError
            more = os.read(self._process.stdout.fileno(), 64)
            assert more, "the process that forks the commands is gone"
            self._said += more
        line, _, self._said = self._said.partition(b"\n")
        return line


def surroundings() -> dict[str, str]:
    """The environment, without what pytest changes from test to test."""
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


def serve() -> dict | None:
    """Fork a process for each order; in it, and there alone, the order comes back."""
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            return order
        os.write(1, f"{pid}\n".encode())
        os.write(1, f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n".encode())
    return None


def become(order: dict) -> None:
    """What a new process would begin with."""
    os.setsid()
    os.chdir(order["cwd"])
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for target, opened in enumerate([os.open(os.devnull, os.O_RDONLY), *(os.open(p, flags) for p in order["streams"])]):
        os.dup2(opened, target)
        os.close(opened)
    sys.stdin = open(0)  # noqa: SIM115  (for as long as the process lives)
    sys.argv = ["r1lit", *order["arguments"]]
    # ``python -m`` has the working directory at this place.
    sys.path[0] = order["cwd"]
    random.seed()


if __name__ == "__main__":
    import r1lit.report.conclude
    import r1lit.report.sweep
    import r1lit.stages.dispatch  # noqa: F401

    if (order := serve()) is not None:
        become(order)
        runpy.run_module("r1lit", run_name="__main__", alter_sys=True)
