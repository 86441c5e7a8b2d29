"""Checkpoints that are either whole or not there, and a run that stops cleanly when it is asked to."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from r1lit.callbacks.storage import storing
from r1lit.distributed.ranks import ALONE, Ranks
from r1lit.settings import SIGNALLED, UserError


class RunInterruptedError(UserError):
    """The run was asked to stop, finished its step and saved its state."""

    def __init__(self, signum: int, directory: Path):
        self.exit_code = SIGNALLED + signum
        super().__init__(f"stopped by {signal.Signals(signum).name}; go on with: r1lit resume={directory}")


class Checkpointer(Callback):
    """Saves ``checkpoints/step_000050.ckpt`` after every ``every``-th step, at the end, and when asked to stop.

    A checkpoint is a file, or a directory of shards. It is written under another name and then renamed, so a crash or a
    full disk never leaves half a one under a checkpoint's name. On SIGINT or SIGTERM, to any of the processes, the step
    under way is finished and saved first; a second SIGINT stops at once.
    """

    def __init__(self, directory: Path, every: int, keep: int, ranks: Ranks = ALONE):
        self.directory, self.every, self.keep, self.ranks = directory, every, keep, ranks
        self.folder = directory / "checkpoints"
        self._signum: int | None = None
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        # What a run that was killed while it saved has left.
        if self.ranks.first:
            for part in self.folder.glob("*.part"):
                _remove(part)
            for new in self.folder.glob(f"step_*{WHOLE}"):
                _take_place(new)
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._previous[signum] = signal.signal(signum, self._ask_to_stop)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._restore_handlers()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._restore_handlers()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = batch.step + 1
        finished = done == module.total_steps
        # Processes hear of a signal at different times, if at all, and must stop after the same step.
        signum = self.ranks.largest(self._signum or 0)
        if signum or (self.every and (done % self.every == 0 or finished)):
            self.save(trainer, done)
        if signum and not finished:
            raise RunInterruptedError(signum, self.directory)

    def save(self, trainer: Trainer, step: int) -> None:
        """Write the state after ``step`` steps, then drop all but the newest.

        Raises:
            StorageError: where it cannot be written; the earlier checkpoints are still there.
        """
        target = self.folder / f"step_{step:06d}.ckpt"
        part = target.with_suffix(".part")
        trainer.datamodule.start_step = step
        # Lightning would take a checkpoint of the last step for the end, and ignore steps that a resumed run adds.
        trainer.fit_loop.epoch_loop.batch_progress.is_last_batch = False
        with storing(target, self._way_back()):
            self.folder.mkdir(parents=True, exist_ok=True)
            # What a run goes on from comes after its metrics are on the disk.
            for logger in trainer.loggers:
                logger.save()
            try:
                trainer.save_checkpoint(part)
                if self.ranks.first:
                    _replace(part, target)
            finally:
                if self.ranks.first:
                    _remove(part)
        for old in checkpoints(self.directory)[: -self.keep] if self.ranks.first else ():
            _remove(old)

    def _way_back(self) -> str:
        found = checkpoints(self.directory)
        return f"then go on from {found[-1].name}: r1lit resume={self.directory}" if found else "then start again"

    def _ask_to_stop(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self._signum is not None:
            raise KeyboardInterrupt
        self._signum = signum

    def _restore_handlers(self) -> None:
        while self._previous:
            signum, handler = self._previous.popitem()
            signal.signal(signum, handler)


WHOLE = ".new"
"""Suffix of a whole checkpoint that takes the place of another one of its step, and comes before it."""


def _replace(part: Path, target: Path) -> None:
    """Give a checkpoint its name. Shards do not give way by themselves as a file does; wherever this is broken off, a
    whole one is found."""
    if not target.is_dir():
        os.replace(part, target)
        return
    _take_place(part.rename(target.with_suffix(WHOLE)))


def _take_place(new: Path) -> None:
    """Finish what `_replace` has begun."""
    target = new.with_suffix(".ckpt")
    _remove(target)
    new.rename(target)


def _remove(path: Path) -> None:
    """Remove a checkpoint, in one file or in shards, if it is there."""
    if path.is_dir():
        # Under another name first: what is left of it, should this be interrupted, is then no checkpoint.
        shutil.rmtree(path if path.suffix == ".part" else path.rename(path.with_suffix(".old.part")))
    else:
        path.unlink(missing_ok=True)


def checkpoints(directory: Path) -> list[Path]:
    """A run's whole checkpoints, oldest first, one of each step."""
    found = {
        path.stem: path
        for suffix in (".ckpt", WHOLE)
        for path in (directory / "checkpoints").glob(f"step_*{suffix}")
        if re.fullmatch(r"step_\d+", path.stem)
    }
    return [found[step] for step in sorted(found)]
