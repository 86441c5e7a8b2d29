"""Running one Python program, kept from the rest of the machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from r1lit.sandbox import bubblewrap
from r1lit.sandbox.bubblewrap import ENVIRONMENT, SandboxError
from r1lit.sandbox.watch import Finished, Limits, Watch
from r1lit.settings import suggest

_DRIVER = Path(__file__).with_name("driver.py")
_PYTHON = [sys.executable, "-I", "-B", "-X", "utf8"]


def run(
    source: str,
    stdin: str = "",
    limits: Limits | None = None,
    function: str | None = None,
    sandbox: str = "bubblewrap",
) -> Finished:
    """Run a Python program on an input.

    Args:
        source: the program.
        stdin: its standard input.
        limits: what it may cost.
        function: call this function of it, or method of its class Solution, instead: each line of the input is an
            argument as JSON, and the output is what it returns as JSON.
        sandbox: one of `SANDBOXES`.

    Raises:
        SandboxError: where it could not be run; whatever the program itself does is in the answer.
    """
    limits = limits or Limits()
    if sandbox not in SANDBOXES:
        raise SandboxError(f"sandbox={sandbox!r} does not exist; {suggest(sandbox, SANDBOXES)}")
    heard, says = os.pipe()
    with ExitStack() as stack:
        stack.callback(os.close, heard)
        arguments = [str(says), json.dumps(limits.for_driver())]
        try:
            process = stack.enter_context(SANDBOXES[sandbox](source, arguments, [function] if function else [], says))
        finally:
            os.close(says)
        return Watch(process, heard, limits).until_it_ends(stdin.encode(errors="replace"))


@contextmanager
def _in_bubblewrap(source: str, arguments: list[str], function: list[str], says: int) -> Iterator[subprocess.Popen]:
    bwrap = bubblewrap.find()
    content = {"/sandbox/driver.py": _DRIVER.read_bytes(), "/sandbox/program.py": source.encode(errors="replace")}
    with ExitStack() as stack:
        files = {path: bubblewrap.data_file(data) for path, data in content.items()}
        seccomp = bubblewrap.seccomp_file()
        for descriptor in (*files.values(), seccomp):
            stack.callback(os.close, descriptor)
        command = [*_PYTHON, "/sandbox/driver.py", *arguments, "/sandbox/program.py", *function]
        line = bubblewrap.wrap(bwrap, command, files, seccomp)
        with _started(line, {}, [*files.values(), seccomp, says]) as process:
            yield process


@contextmanager
def _unprotected(source: str, arguments: list[str], function: list[str], says: int) -> Iterator[subprocess.Popen]:
    """Limits alone: the program can read and write whatever this user can."""
    with TemporaryDirectory(prefix="r1lit-") as folder:
        path = Path(folder) / "program.py"
        path.write_bytes(source.encode(errors="replace"))
        line = [*_PYTHON, str(_DRIVER), *arguments, str(path), *function]
        with _started(line, ENVIRONMENT, [says], folder) as process:
            yield process


@contextmanager
def _started(
    line: list[str], environment: Mapping[str, str], descriptors: list[int], folder: str | None = None
) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        line,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(environment),
        pass_fds=descriptors,
        cwd=folder,
        bufsize=0,
        process_group=0,
    )
    try:
        yield process
    finally:
        # With bubblewrap its whole tree dies: the kernel ends a process namespace with its first process.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()


SANDBOXES: Mapping[str, Callable[[str, list[str], list[str], int], AbstractContextManager[subprocess.Popen]]] = {
    "bubblewrap": _in_bubblewrap,
    "none_unsafe": _unprotected,
}
"""Ways to run a program, by name."""
