"""Where a run's metrics go beside its ``metrics.jsonl``: loggers that a resumed run goes on with."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from r1lit.callbacks.recorder import read_metrics
from r1lit.callbacks.wandb_run import WandbRun
from r1lit.distributed.launch import launched
from r1lit.settings import ConfigError, UserError
from r1lit.stages.run import SECTIONS, Run
from r1lit.stages.summary import Summary


def build_loggers(run: Run, checkpoint: str | None = None) -> list[Logger]:
    """The logger that ``logger=`` names, writing into the run's directory; none in any process but the first.

    Args:
        run: the run's settings.
        checkpoint: what the run goes on from; the steps after it are logged anew.

    Raises:
        ConfigError: where its package is not installed, or Weights & Biases has no key.
    """
    if not launched().first:
        return []
    settings, start = run.logger, steps_done(checkpoint)
    kinds: Mapping[str, Callable[[Run, int], list[Logger]]] = {
        "none": lambda run, start: [],
        "csv": lambda run, start: [_csv(run.directory, start)],
        "tensorboard": lambda run, start: [_tensorboard(run.directory, start)],
        "wandb": lambda run, start: [_wandb(run, start)],
    }
    try:
        return kinds[settings.kind](run, start)
    except ModuleNotFoundError as error:
        raise ConfigError(
            [f"logger={settings.kind} needs a package that is not installed ({error.name}): pip install {error.name}"]
        ) from error


@contextmanager
def logged(loggers: Sequence[Logger], summary: Summary) -> Iterator[None]:
    """Open the loggers for what runs inside; at its end, well or ill, hand them the run's figures and close them."""
    runs = [logger for logger in loggers if isinstance(logger, WandbRun)]
    for one in runs:
        one.say = summary.say
        one.open()
    # What a resumed run's earlier end was is no figure of this one.
    exit_code, figures = 1, {"before": summary.figures.get("before", {})}
    try:
        yield
        exit_code, figures = 0, summary.figures
    except UserError as error:
        exit_code = error.exit_code
        raise
    finally:
        for one in runs:
            figures = {name: figures[name] for name in ("before", "after", "seconds", "tokens") if name in figures}
            one.conclude(figures, _scalars(figures.get("after", {})))
            one.finish(exit_code)


def _scalars(figures: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if isinstance(value, int | float)}


def steps_done(checkpoint: str | None) -> int:
    """Steps that lie behind a checkpoint; 0 without one."""
    return int(Path(checkpoint).stem.removeprefix("step_")) if checkpoint else 0


def _csv(directory: Path, start: int) -> Logger:
    """Lightning's logger begins its file anew: what a resumed run has done is put in again."""
    folder = directory / "csv"
    (folder / "version_0" / "metrics.csv").unlink(missing_ok=True)
    logger = CSVLogger(str(directory), name=folder.name, version=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row in read_metrics(directory / "metrics.jsonl"):
            if row["step"] < start:
                values = {name: math.nan if value is None else value for name, value in row.items() if name != "step"}
                logger.log_metrics(values, step=row["step"])
    return logger


def _tensorboard(directory: Path, start: int) -> Logger:
    """TensorBoard drops the steps that a resumed run does again."""
    purge = {"purge_step": start} if (directory / "tensorboard").exists() else {}
    return TensorBoardLogger(str(directory), name="tensorboard", version=0, **purge)


def _wandb(run: Run, start: int) -> Logger:
    settings = run.logger
    return WandbRun(
        run.directory,
        _wandb_mode(settings.mode),
        {
            "project": settings.project,
            "entity": settings.entity,
            "group": settings.group,
            "tags": settings.tags,
            "notes": settings.notes,
            "name": run.directory.name,
        },
        config=plain(run),
        start=start,
        table_rows=settings.table_rows,
    )


def _wandb_mode(asked: str) -> str:
    """W&B's own mode, chosen so that it never asks for a key in the middle of a run.

    Raises:
        ConfigError: where the run is to be online, but there is no key.
    """
    # Heavy, and asked for by few.
    import wandb

    mode = wandb.setup().settings.mode if asked == "auto" else asked
    if mode in _KEYLESS:
        return _KEYLESS[mode]
    # Where the environment says offline, wandb would not look for a key; aloud, it would ask the network whose it is.
    own = wandb.setup().settings
    silent, own.mode, own.silent = own.silent, mode, True
    try:
        found = wandb.login(prompt=False, verify=False)
    except (wandb.errors.Error, ValueError) as error:
        problem = f"logger=wandb, but what there is for a key is none ({error}); mend WANDB_API_KEY, or set {_OFFLINE}"
        raise ConfigError([problem]) from error
    finally:
        own.silent = silent
    if found:
        return mode
    if asked == "auto" and "WANDB_MODE" not in os.environ:
        return "offline"
    raise ConfigError(
        [f"logger=wandb, but there is no key; set WANDB_API_KEY in the environment, or {_OFFLINE} to keep the run here"]
    )


_OFFLINE = "WANDB_MODE=offline or logger.mode=offline"
_KEYLESS = {"offline": "offline", "dryrun": "offline", "disabled": "disabled"}


def plain(run: Run) -> dict[str, Any]:
    """Every setting of a run as plain values, nested as they are written."""
    sections = {name: getattr(run, name).model_dump(mode="json", by_alias=True) for name in SECTIONS}
    rewards = {name: reward.model_dump(mode="json", by_alias=True) for name, reward in run.rewards.items()}
    return run.command.model_dump(mode="json") | sections | {"reward": rewards}
