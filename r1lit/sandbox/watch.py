"""What a program may cost, and waiting for it no longer than that."""

from __future__ import annotations

import math
import os
import selectors
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from r1lit.sandbox.bubblewrap import SandboxError

START_SECONDS = 60.0
"""What starting an interpreter may take on a busy machine; it is not the program's time."""

STDERR_BYTES = 4096
"""What is kept of the standard error: its end."""

MEBIBYTE = 1 << 20
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Limits:
    """What a program may cost.

    Attributes:
        seconds: on the clock, from its first line on; of the processor's time one second more.
        memory_mb: MiB of address space, the interpreter's own included.
        output_bytes: of the standard output.
        file_mb: MiB of a file.
        threads: that it may start.
    """

    seconds: float = 6.0
    memory_mb: int = 1024
    output_bytes: int = 16 * MEBIBYTE
    file_mb: int = 16
    threads: int = 64

    def for_driver(self) -> dict[str, int]:
        """The limits that the kernel keeps, by their names in ``resource``."""
        return {
            "RLIMIT_AS": self.memory_mb * MEBIBYTE,
            "RLIMIT_CPU": math.ceil(self.seconds) + 1,
            "RLIMIT_FSIZE": self.file_mb * MEBIBYTE,
            "RLIMIT_NOFILE": 64,
            "RLIMIT_NPROC": self.threads,
            "RLIMIT_STACK": 64 * MEBIBYTE,
            "RLIMIT_CORE": 0,
        }


@dataclass(frozen=True)
class Finished:
    """What became of a program.

    Attributes:
        ending: ``exited``, or why it was killed: its ``timeout``, or too much ``output``.
        returncode: its exit status where it exited; above 128 by a signal.
        stdout: what it printed.
        stderr: the end of what it said beside that.
        seconds: how long it ran.
    """

    ending: Literal["exited", "timeout", "output"]
    returncode: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def succeeded(self) -> bool:
        return self.ending == "exited" and self.returncode == 0


class Watch:
    """Feeds a process and listens to it until it ends or has cost too much.

    Args:
        process: with pipes for its three streams.
        heard: a descriptor that yields a byte when the program begins.
        limits: what it may cost.
    """

    def __init__(self, process: subprocess.Popen, heard: int, limits: Limits):
        self._process, self._limits = process, limits
        self._said: dict[int, bytearray] = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
        self._stdout, self._stderr = self._said
        self._heard, self._began = heard, 0.0
        self._deadline = time.monotonic() + START_SECONDS

    def until_it_ends(self, stdin: bytes) -> Finished:
        """Wait, and tell how it ended.

        Raises:
            SandboxError: where the program never began.
        """
        with selectors.DefaultSelector() as selector:
            for descriptor in (*self._said, self._heard):
                selector.register(descriptor, selectors.EVENT_READ)
            self._feed(selector, memoryview(stdin))
            ending = self._listen(selector)
        if not self._began:
            raise SandboxError(self._never_began(ending))
        returncode = self._process.wait() if ending == "exited" else -9
        return Finished(
            ending,
            128 - returncode if returncode < 0 else returncode,
            self._said[self._stdout].decode(errors="replace"),
            self._said[self._stderr].decode(errors="replace"),
            time.monotonic() - self._began,
        )

    def _feed(self, selector: selectors.BaseSelector, left: memoryview) -> None:
        self._left = left
        os.set_blocking(self._process.stdin.fileno(), False)
        selector.register(self._process.stdin.fileno(), selectors.EVENT_WRITE)

    def _listen(self, selector: selectors.BaseSelector) -> str:
        """Until both streams are closed and the process is gone, or it has cost too much."""
        stdin, open_streams = self._process.stdin.fileno(), set(self._said)
        while open_streams or self._process.poll() is None:
            wait = self._deadline - time.monotonic()
            if wait <= 0:
                return "timeout"
            # Streams that are closed tell nothing of the end of their process, so look for it now and then.
            for key, _ in selector.select(wait if open_streams else min(wait, 0.01)):
                if key.fd == stdin:
                    self._write(selector, stdin)
                elif not self._read(key.fd):
                    selector.unregister(key.fd)
                    open_streams.discard(key.fd)
            if len(self._said[self._stdout]) > self._limits.output_bytes:
                return "output"
        return "exited"

    def _write(self, selector: selectors.BaseSelector, stdin: int) -> None:
        # A program need not read what it is given.
        with suppress(BrokenPipeError):
            self._left = self._left[os.write(stdin, self._left[:_CHUNK]) :] if self._left else self._left
            if self._left:
                return
        selector.unregister(stdin)
        self._process.stdin.close()

    def _read(self, descriptor: int) -> bool:
        """Take in what there is; False at its end."""
        got = os.read(descriptor, _CHUNK)
        if descriptor == self._heard:
            if got:
                self._began = time.monotonic()
                self._deadline = self._began + self._limits.seconds
            return bool(got)
        self._said[descriptor] += got
        if descriptor == self._stderr:
            del self._said[descriptor][:-STDERR_BYTES]
        return bool(got)

    def _never_began(self, ending: str) -> str:
        said = " ".join(self._said[self._stderr].decode(errors="replace").split())
        how = f"it took longer than {START_SECONDS:g} s" if ending == "timeout" else "it ended before the program began"
        return f"the sandbox did not start: {how}; it said: {said or 'nothing'}"
