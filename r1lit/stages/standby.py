"""`Standby`: commands in processes of their own, each of which has loaded its libraries before it is called for."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Thread
from types import TracebackType

import torch

from r1lit.rewards.process import die_with_parent

_DRAINED = 5.0
"""Seconds to wait for the last lines of a process that has ended; what it left running may hold its pipe open."""


class Command:
    """An ``r1lit`` process, which waits for its arguments, and ends where none ever come.

    On Linux it dies with this one; elsewhere it goes on once it has begun.

    Args:
        named: its lines come out one by one, each after the name that it is begun with.
        environment: beside this process's own.
    """

    def __init__(self, named: bool = False, environment: Mapping[str, str] | None = None):
        theirs, self._ours = os.pipe()
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
        # In a group of its own Ctrl-C reaches it once, through its parent, and it can save and stop in good order.
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs)],
            pass_fds=[theirs],
            start_new_session=True,
            preexec_fn=die_with_parent,
            env={**os.environ, **(environment or {})},
            **(pipes if named else {}),
        )
        os.close(theirs)
        self._printer: Thread | None = None

    def begin(self, arguments: Sequence[str], name: str) -> None:
        """Let it run ``r1lit`` with these arguments."""
        # Where it is dead already, its exit status will tell.
        with suppress(BrokenPipeError), os.fdopen(self._ours, "w") as pipe:
            json.dump(list(arguments), pipe)
        if self.process.stdout is not None:
            self._printer = Thread(target=self._print, args=(name,), daemon=True)
            self._printer.start()

    def ended(self) -> int | None:
        """Its exit status, once it has one and all that it said is out."""
        code = self.process.poll()
        if code is not None and self._printer is not None:
            self._printer.join(_DRAINED)
        return code

    def dismiss(self) -> None:
        """End it before it has begun."""
        os.close(self._ours)
        self.process.kill()
        self.process.wait()

    def _print(self, name: str) -> None:
        for line in self.process.stdout:
            text = line if line.endswith("\n") else f"{line}\n"
            # What it says is lost where nobody reads it any more, but it must not wait for that reader for ever.
            with suppress(OSError, ValueError):
                sys.stderr.write(f"{name}: {text}" if line.strip() else text)
                sys.stderr.flush()


class Standby:
    """Begins commands; the next one's process loads its libraries while others run.

    Args:
        at_once: how many run at a time. They share the processor's cores, and their lines come out by name.
    """

    def __init__(self, at_once: int = 1):
        share = max(1, torch.get_num_threads() // at_once)
        threads = {} if at_once == 1 or "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(share)}
        self._options = {"named": at_once > 1, "environment": threads}
        self._next: Command | None = None

    def __enter__(self) -> Standby:
        self._next = Command(**self._options)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._next is not None:
            self._next.dismiss()

    def begin(self, arguments: Sequence[str], name: str, last: bool) -> Command:
        """A process that runs ``r1lit`` with these arguments; after the ``last`` one no further process waits."""
        command, self._next = self._next or Command(**self._options), None
        command.begin(arguments, name)
        self._next = None if last else Command(**self._options)
        return command


def _wait(descriptor: int) -> None:
    # Ctrl-C has nothing to tell of while libraries load.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    import r1lit.stages.dispatch  # noqa: F401  (what every command loads)

    with os.fdopen(descriptor) as pipe:
        told = pipe.read()
    if told:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["r1lit", *json.loads(told)]
        runpy.run_module("r1lit", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _wait(int(sys.argv[1]))
