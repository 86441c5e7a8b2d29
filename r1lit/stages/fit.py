"""Train a policy with GRPO: pre-flight, measure, train, measure again, export."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import lightning
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from r1lit.callbacks.checkpointing import Checkpointer, checkpoints
from r1lit.callbacks.completions import CompletionsTable
from r1lit.callbacks.evaluation import PeriodicEvaluation
from r1lit.callbacks.progress import ProgressBar
from r1lit.callbacks.recorder import Recorder, read_metrics
from r1lit.data.module import PromptDataModule
from r1lit.data.stream import PromptStream
from r1lit.modules.grpo import GRPO
from r1lit.settings import ConfigError, UserError
from r1lit.stages.evaluate import summarize
from r1lit.stages.export import write_model
from r1lit.stages.measure import measure
from r1lit.stages.preflight import preflight, require_signal
from r1lit.stages.settings import Run
from r1lit.stages.setup import Workbench, device_of, precision_of, workbench
from r1lit.stages.summary import Summary


def fit(run: Run, summary: Summary) -> None:
    """Run R1-Zero's loop; leaves a model directory, metrics, completions and a summary in the run's directory."""
    loggers, checkpoint = build_loggers(run), _checkpoint(run, summary)
    with workbench(run) as bench:
        summary.show_prompts(bench.prompts)
        summary.add(metric=run.evaluation.metric)
        if run.preflight.enabled and checkpoint is None:
            with summary.timed("preflight"):
                found = preflight(run, bench)
            summary.preflight(found)
            require_signal(found, run.command.force)
        if run.evaluation.enabled and "before" not in summary.figures:
            _evaluate("before", run, bench, summary)
        prompts = bench.prompts
        stream = PromptStream(prompts.sources, prompts.weights, run.algorithm.prompts_per_step, run.data.seed)
        module = build_module(run, bench, stream)
        data = PromptDataModule(stream, prompts.validation, run.algorithm.steps)
        trainer = build_trainer(run, bench, summary, loggers)
        with summary.timed("fit"):
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        write_model(bench.policy, bench.tokenizer, run)
        summary.training(read_metrics(run.directory / "metrics.jsonl"))
        if run.evaluation.enabled:
            _evaluate("after", run, bench, summary)


def build_module(run: Run, bench: Workbench, stream: PromptStream) -> GRPO:
    """The algorithm on this run's model; further prompts, where it asks for them, come from the stream."""
    return GRPO(
        policy=bench.policy,
        sampler=bench.sampler,
        rewards=bench.rewards,
        algorithm=run.algorithm,
        optimizer=run.optimizer,
        sampling=run.rollout.sampling,
        extra_prompts=stream.extra,
        seed=run.command.seed,
    )


def build_trainer(run: Run, bench: Workbench, summary: Summary, loggers: list[Logger]) -> lightning.Trainer:
    """A Lightning trainer with r1lit's callbacks; what adds to the metrics stands before what writes them."""
    callbacks: list[lightning.Callback] = [
        ProgressBar(run.algorithm.steps, run.evaluation.metric, console=summary.console)
    ]
    if run.evaluation.every:
        callbacks.append(
            PeriodicEvaluation(lambda: _scalars(summarize(measure(run, bench, summary))), run.evaluation.every)
        )
    callbacks.append(Recorder(run.directory))
    if run.completions.every:
        callbacks.append(CompletionsTable(run.directory, run.completions.every))
    callbacks.append(Checkpointer(run.directory, run.trainer.checkpoint_every, run.trainer.keep_checkpoints))
    # Lightning warns of what is meant here: a reference in evaluation mode, few steps, no validation loader.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*")
    return lightning.Trainer(
        accelerator="gpu" if device_of(run.trainer.accelerator).type == "cuda" else "cpu",
        devices=1,
        precision=precision_of(run),
        max_epochs=1,
        logger=loggers,
        callbacks=callbacks,
        default_root_dir=run.directory,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def build_loggers(run: Run) -> list[Logger]:
    """The logger that ``logger=`` names, writing into the run's directory.

    Raises:
        ConfigError: where its package is not installed, or Weights & Biases has no key.
    """
    directory, settings = str(run.directory), run.logger
    kinds: dict[str, Callable[[], list[Logger]]] = {
        "none": lambda: [],
        "csv": lambda: [CSVLogger(directory, name="csv")],
        "tensorboard": lambda: [TensorBoardLogger(directory, name="tensorboard")],
        "wandb": lambda: [_wandb_logger(run)],
    }
    try:
        return kinds[settings.kind]()
    except ModuleNotFoundError as error:
        raise ConfigError(
            [f"logger={settings.kind} needs a package that is not installed ({error.name}): pip install {error.name}"]
        ) from error


def _wandb_logger(run: Run) -> Logger:
    # Heavy, and asked for by few.
    import wandb

    # Without a key wandb would ask for one in the middle of the run, and fail where nobody can answer.
    if wandb.setup().settings.mode not in ("offline", "disabled") and not wandb.login(prompt=False, verify=False):
        raise ConfigError(
            [
                "logger=wandb, but there is no key; set WANDB_API_KEY in the environment, or WANDB_MODE=offline to "
                "keep the metrics on this disk"
            ]
        )
    settings = run.logger
    return WandbLogger(
        save_dir=str(run.directory), project=settings.project, group=settings.group, name=run.directory.name
    )


def _evaluate(when: str, run: Run, bench: Workbench, summary: Summary) -> None:
    judged = measure(run, bench, summary)
    summary.evaluation(when, summarize(judged))
    # The first held-out prompt's first sample, whatever it is: the same prompt before and after.
    first = judged[0].group
    summary.say(f"    {_shortened(first.prompt.raw)} -> {_shortened(first.completions[0])}")


def _shortened(text: object, limit: int = 300) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= limit else f"{line[:limit]} ..."


def _scalars(figures: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in figures.items() if isinstance(value, int | float)}


def _checkpoint(run: Run, summary: Summary) -> str | None:
    """The state to go on from; None to begin at the beginning.

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
