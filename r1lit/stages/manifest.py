"""What of a chain is done, kept on disk so that it can stop anywhere and go on."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from r1lit.callbacks.storage import replacing
from r1lit.settings import UserError
from r1lit.stages.plan import Step

FILE = "manifest.json"


class Manifest:
    """The steps that were begun, by directory: each with its fingerprint, and whether it is ``done``."""

    def __init__(self, directory: Path):
        self.path = directory / FILE
        self.root = directory
        self.entries: dict[str, dict[str, Any]] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def done(self, step: Step) -> bool:
        """True where the step has ended and its output is still there."""
        return bool(self.entries.get(self._key(step), {}).get("done")) and step.makes.exists()

    def begun(self, step: Step) -> bool:
        """True where the step left a state to go on from."""
        return (step.directory / "overrides.yaml").exists()

    def begin(self, step: Step) -> None:
        """Note the step before anything of it is on the disk; what cannot be gone on with is removed."""
        if not self.begun(step) and step.directory.exists():
            shutil.rmtree(step.directory)
        self._write(step, done=False)

    def finish(self, step: Step, seconds: float) -> None:
        """Note that the step has ended and left its output."""
        self._write(step, done=True, seconds=round(seconds, 1))

    def check(self, steps: Sequence[Step], force: bool) -> None:
        """Compare what is on the disk with what the chain would do now; with ``force`` what differs is removed.

        Raises:
            UserError: where a step was begun under another configuration, naming it.
        """
        changed = [
            step
            for step in steps
            if (entry := self.entries.get(self._key(step))) and entry["fingerprint"] != step.fingerprint
        ]
        if changed and not force:
            names = ", ".join(self._key(step) for step in changed)
            raise UserError(
                f"{self.root} holds steps that were made under another configuration: {names}. Going on would put "
                "models of different settings side by side; start a new chain, or add force=true to remove these "
                "steps' results and make them anew"
            )
        for step in changed:
            shutil.rmtree(step.directory, ignore_errors=True)
            del self.entries[self._key(step)]

    def _write(self, step: Step, **state: Any) -> None:
        self.entries[self._key(step)] = {"fingerprint": step.fingerprint, **state}
        with replacing(self.path) as part:
            part.write_text(json.dumps(self.entries, indent=2) + "\n")

    def _key(self, step: Step) -> str:
        return str(step.directory.relative_to(self.root))


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Hold a directory against a second run of the same chain; the hold ends with the process, however that ends.

    Raises:
        UserError: where another process has it.
    """
    with (directory / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{directory} is being worked on by another process; wait for it or stop it") from error
        yield
