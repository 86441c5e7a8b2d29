"""A Lightning trainer with r1lit's callbacks and loggers, for whatever module is trained."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import Logger

from r1lit.callbacks.checkpointing import Checkpointer, checkpoints
from r1lit.callbacks.evaluation import PeriodicEvaluation
from r1lit.callbacks.hardware import Peak, peak_of
from r1lit.callbacks.progress import ProgressBar
from r1lit.callbacks.recorder import Recorder, read_metrics
from r1lit.callbacks.throughput import Throughput
from r1lit.callbacks.tracing import Tracing
from r1lit.data.module import StepDataModule, Stream
from r1lit.distributed.launch import launched
from r1lit.distributed.shards import read_rest, stored_shapes
from r1lit.distributed.strategies import Started, strategy_of
from r1lit.modules.optimizer import other_kind_problem
from r1lit.settings import ConfigError, UserError
from r1lit.stages.loggers import steps_done
from r1lit.stages.performance import report
from r1lit.stages.run import Run
from r1lit.stages.setup import device_of, precision_of, ranks_of
from r1lit.stages.summary import Summary
from r1lit.types import Prompt

ELSEWHERE = {"enabled", "before", "every", "sources", "prompts", "max_prompt_tokens"}
"""Settings of the evaluation that say when to measure, or choose the prompts, which speak for themselves."""


OF_ALL = (PeriodicEvaluation, Checkpointer, Tracing)
"""Callbacks in which all processes take part; the others write, or speak."""


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

    Raises:
        UserError: where the state is that of another model.
    """
    if checkpoint:
        _require_same_parameters(module, checkpoint)
    trainer = build_trainer(run, summary, loggers, module.total_steps, shown, measuring)
    data = StepDataModule(stream, module.total_steps)
    with summary.timed("fit"):
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    if run.trainer.strategy != "fsdp":
        # Lightning leaves the model on the host; it is measured where it was trained.
        module.to(device_of(run.trainer.accelerator))
    if summary.writes:
        steps = read_metrics(run.directory / "metrics.jsonl")
        summary.training(steps)
        report(steps, peak(run), summary)


def build_trainer(
    run: Run,
    summary: Summary,
    loggers: list[Logger],
    steps: int,
    shown: Mapping[str, tuple[str, str]],
    measuring: Sequence[lightning.Callback],
    saves: bool = True,
) -> lightning.Trainer:
    """A Lightning trainer of one epoch of ``steps`` steps, which ``saves`` its state."""
    # Lightning warns of what is meant here: a reference in evaluation mode, few steps, no validation loader.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*")
    launch = launched()
    every, keep = run.trainer.checkpoint_every, run.trainer.keep_checkpoints
    callbacks = [
        Throughput(peak(run)),
        ProgressBar(steps, shown, console=summary.console),
        *measuring,
        Recorder(run.directory),
        *([Checkpointer(run.directory, every, keep, ranks_of(run))] if saves else []),
    ]
    return lightning.Trainer(
        accelerator="gpu" if device_of(run.trainer.accelerator).type == "cuda" else "cpu",
        devices=launch.local_size,
        num_nodes=launch.size // launch.local_size,
        strategy=strategy_of(run.trainer.strategy, launch),
        plugins=[Started(launch)] if launch.size > 1 or run.trainer.strategy == "fsdp" else None,
        use_distributed_sampler=False,
        precision=precision_of(run),
        max_epochs=1,
        logger=loggers,
        callbacks=[callback for callback in callbacks if launch.first or isinstance(callback, OF_ALL)],
        default_root_dir=run.directory,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def peak(run: Run) -> Peak:
    """What the run's devices can do together at best, as far as that is known."""
    one = peak_of(device_of(run.trainer.accelerator), run.trainer.peak_tflops, run.trainer.peak_bandwidth_gbs)
    return one.times(launched().size)


def resume_point(run: Run, summary: Summary) -> str | None:
    """The checkpoint to go on from; None to begin at the beginning.

    Raises:
        UserError: for a run that finished without a checkpoint, whose results would be lost.
    """
    if run.command.resume is None:
        return None
    if found := checkpoints(run.directory):
        require_fitting(run, found[-1])
        return str(found[-1])
    if (run.directory / "model").exists():
        raise UserError(
            f"resume={run.directory} is a finished run without a checkpoint, so there is nothing to go on from; start "
            f"a new run from its model: model.path={run.directory / 'model'}"
        )
    summary.say("no checkpoint yet: beginning at step 1")
    return None


def _require_same_parameters(module: lightning.LightningModule, checkpoint: str) -> None:
    """A run may go on with other settings, but with the parameters that it trained."""
    mine, path = {name: value.shape for name, value in module.state_dict().items()}, Path(checkpoint)
    if path.is_dir():
        saved = stored_shapes(path, "model.")
    else:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
        saved = {name: value.shape for name, value in state.items()}
    # A reference may come and go.
    odd = sorted({name for name, _ in saved.items() ^ mine.items() if not name.startswith("reference.")})
    if odd:
        raise UserError(
            f"{checkpoint} holds other parameters than this run trains ({odd[0]}, and {len(odd) - 1} more), so it "
            "cannot go on; set model.path, model.lora and model.quantization as the run was started with, or start a "
            "new run"
        )


def require_fitting(run: Run, checkpoint: Path) -> None:
    """Refuse a checkpoint in shards for a whole model, and the other way round; and one in shards of another optimiser,
    whose state would not be found in it.

    Raises:
        ConfigError: with the strategy, or the optimiser, to go on with.
    """
    sharded, asked = checkpoint.is_dir(), run.trainer.strategy
    if sharded != (asked == "fsdp"):
        found = "in shards" if sharded else "whole"
        remedy = "trainer=fsdp, in one process or several" if sharded else "trainer=single or trainer=ddp"
        raise ConfigError([f"trainer={asked}, but {checkpoint} is {found}; go on with {remedy}"])
    if sharded:
        settings = read_rest(checkpoint)["optimizer_settings"].items()
        for kind in {value for name, value in settings if name.endswith(".kind")} - {run.optimizer.kind}:
            raise ConfigError([other_kind_problem(run.optimizer.kind, kind)])


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
