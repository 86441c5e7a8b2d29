"""A Lightning trainer with r1lit's callbacks and loggers, for whatever module is trained."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import lightning
from lightning.pytorch.loggers import Logger

from r1lit.callbacks.checkpointing import Checkpointer, checkpoints
from r1lit.callbacks.progress import ProgressBar
from r1lit.callbacks.recorder import Recorder, read_metrics
from r1lit.data.module import StepDataModule, Stream
from r1lit.settings import UserError
from r1lit.stages.loggers import steps_done
from r1lit.stages.run import Run
from r1lit.stages.setup import device_of, precision_of
from r1lit.stages.summary import Summary
from r1lit.types import Prompt

ELSEWHERE = {"enabled", "before", "every", "sources", "prompts", "max_prompt_tokens"}
"""Settings of the evaluation that say when to measure, or choose the prompts, which speak for themselves."""


def train(
    run: Run,
    summary: Summary,
    module: lightning.LightningModule,
    stream: Stream,
    loggers: list[Logger],
    checkpoint: str | None,
    shown: Mapping[str, tuple[str, str]],
    measuring: Sequence[lightning.Callback] = (),
) -> None:
    """Train a module for its ``total_steps`` on a stream of batches, and sum up in the summary.

    Args:
        run: the run's settings.
        summary: its console shows the progress.
        module: leaves its ``metrics`` after each step.
        stream: gives any step's batch.
        loggers: where the metrics go beside ``metrics.jsonl``.
        checkpoint: the state to go on from, if there is one.
        shown: what the progress bar shows: label to metric and format.
        measuring: callbacks that add to a step's metrics; they stand before what writes these.
    """
    trainer = build_trainer(run, summary, loggers, module.total_steps, shown, measuring)
    data = StepDataModule(stream, module.total_steps)
    with summary.timed("fit"):
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    summary.training(read_metrics(run.directory / "metrics.jsonl"))


def build_trainer(
    run: Run,
    summary: Summary,
    loggers: list[Logger],
    steps: int,
    shown: Mapping[str, tuple[str, str]],
    measuring: Sequence[lightning.Callback],
) -> lightning.Trainer:
    """A Lightning trainer of one epoch of ``steps`` steps."""
    # Lightning warns of what is meant here: a reference in evaluation mode, few steps, no validation loader.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*")
    return lightning.Trainer(
        accelerator="gpu" if device_of(run.trainer.accelerator).type == "cuda" else "cpu",
        devices=1,
        precision=precision_of(run),
        max_epochs=1,
        logger=loggers,
        callbacks=[
            ProgressBar(steps, shown, console=summary.console),
            *measuring,
            Recorder(run.directory),
            Checkpointer(run.directory, run.trainer.checkpoint_every, run.trainer.keep_checkpoints),
        ],
        default_root_dir=run.directory,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def resume_point(run: Run, summary: Summary) -> str | None:
    """The checkpoint to go on from; None to begin at the beginning.

    Raises:
        UserError: for a run that finished without a checkpoint, whose results would be lost.
    """
    if run.command.resume is None:
        return None
    if found := checkpoints(run.directory):
        return str(found[-1])
    if (run.directory / "model").exists():
        raise UserError(
            f"resume={run.directory} is a finished run without a checkpoint, so there is nothing to go on from; start "
            f"a new run from its model: model.path={run.directory / 'model'}"
        )
    summary.say("no checkpoint yet: beginning at step 1")
    return None


def begin(summary: Summary, checkpoint: str | None, steps: int) -> None:
    """Save that a run of so many steps is under way, once nothing can refuse it any more."""
    summary.begin(trains=steps_done(checkpoint) < steps)


def answers_mark(run: Run, prompts: Sequence[Prompt]) -> str:
    """The `mark` of what is measured on held-out prompts: how they are answered and judged, and they themselves."""
    rewards = {
        # What a reward weighs changes the training, and no figure of its own.
        name: reward.model_dump(mode="json", by_alias=True, exclude={"weight", "schedule"})
        for name, reward in run.rewards.items()
    }
    asked = ((prompt.ids, prompt.prefill, dict(prompt.columns)) for prompt in prompts[: run.evaluation.prompts])
    return mark([run.evaluation.model_dump(mode="json", exclude=ELSEWHERE), rewards, *asked])


def mark(parts: Iterable[Any]) -> str:
    """A word for plain values; other values have another.

    >>> mark(["a", 1]) == mark(iter(["a", 1])) != mark(["a", 2])
    True
    """
    digest = sha256()
    for part in parts:
        # Columns may hold what JSON cannot.
        digest.update(repr(part).encode("utf-8", "backslashreplace") + b"\n")
    return digest.hexdigest()[:16]
