"""What of a chain is done, kept on disk so that it can stop anywhere and go on."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from r1lit.callbacks.checkpointing import checkpoints
from r1lit.callbacks.storage import replacing
from r1lit.settings import UserError
from r1lit.stages.plan import Step

FILE = "manifest.json"


class Manifest:
    """The steps that were begun, by directory: each with its fingerprint, whether it is ``done``, and the mark of its
    making and of its inputs', so that what was made from an earlier making is not taken for its successor.

    Raises:
        UserError: where the file cannot be read.
    """

    def __init__(self, directory: Path):
        self.path = directory / FILE
        self.root = directory
        self.entries: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            try:
                self.entries = json.loads(self.path.read_text())
            except ValueError as error:
                raise UserError(
                    f"{self.path} is damaged ({error}); remove it to run the whole chain anew in this directory"
                ) from error

    def done(self, step: Step) -> bool:
        """True where the step has ended, its output is still there, and it was made from its inputs as they are."""
        entry = self._entry(step)
        return bool(entry.get("done")) and step.makes.exists() and entry.get("inputs", {}) == self._marks(step)

    def begun(self, step: Step) -> bool:
        """True where the step left a state to go on from."""
        finished = step.makes.is_dir() and not checkpoints(step.directory)
        return (step.directory / "overrides.yaml").exists() and not finished and not self._entry(step).get("done")

    def begin(self, step: Step) -> None:
        """Note the step before anything of it is on the disk; what cannot be gone on with is removed."""
        if not self.begun(step) and step.directory.exists():
            shutil.rmtree(step.directory)
        self._write(step, done=False)

    def finish(self, step: Step, seconds: float) -> None:
        """Note that the step has ended and left its output."""
        self._write(step, done=True, seconds=round(seconds, 1), mark=uuid4().hex[:8], inputs=self._marks(step))

    def check(self, steps: Sequence[Step], force: bool) -> None:
        """Compare what is on the disk with what the chain would do now; with ``force`` what differs is removed.

        Raises:
            UserError: where a step was begun under another configuration, naming it.
        """
        changed = [
            step
            for step in steps
            if (entry := self._entry(step)) and entry.get("fingerprint") != step.fingerprint
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

    def _marks(self, step: Step) -> dict[str, str | None]:
        """The marks of the step's inputs, by name."""
        folder = step.directory.parent.relative_to(self.root)
        return {name: self.entries.get(str(folder / name), {}).get("mark") for name in step.inputs}

    def _entry(self, step: Step) -> dict[str, Any]:
        return self.entries.get(self._key(step), {})

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
