"""What the policy wrote, with every reward's column, as Parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from r1lit.modules.experience import Experience
from r1lit.text.thinking import split


@runtime_checkable
class TakesCompletions(Protocol):
    """A logger that shows completions."""

    def log_completions(self, table: pa.Table) -> None: ...


class CompletionsTable(Callback):
    """Saves ``completions/step_000010.parquet`` for the first, the last and every ``every``-th step (0: none).

    It has to stand before the callback that hands the step's metrics to the loggers: they send the table with these.
    """

    def __init__(self, directory: Path, every: int):
        self.folder, self.every = directory / "completions", every

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = batch.step
        if not self.every:
            return
        if step % self.every == 0 or step + 1 == module.total_steps:
            self.folder.mkdir(exist_ok=True)
            rows = table(step, module.experience)
            pq.write_table(rows, self.folder / f"step_{step:06d}.parquet")
            for logger in trainer.loggers:
                if isinstance(logger, TakesCompletions):
                    logger.log_completions(rows)


def table(step: int, experience: Experience) -> pa.Table:
    """One row a completion: its text and parsed halves, every reward, total, advantage, whether it was trained on."""
    scored, rollout = experience.scored, experience.scored.rollout
    groups = [(index, group) for index, group in enumerate(rollout.groups) for _ in group.completions]
    completions = [text for group in rollout.groups for text in group.completions]
    parsed = [split(text) for text in completions]
    rewards = {
        f"rewards/{name}": [None if value != value else value for value in scored.column(name).tolist()]
        for name in scored.names
    }
    return pa.table(
        {
            "step": [step] * len(completions),
            "group": [index for index, _ in groups],
            "prompt": [_text(group.prompt.raw) for _, group in groups],
            "completion": completions,
            "thought": [halves.thought for halves in parsed],
            "answer": [halves.answer for halves in parsed],
            "expected": [_text(group.prompt.columns.get("answer")) for _, group in groups],
            **rewards,
            "reward": scored.totals.tolist(),
            "advantage": experience.advantages.tolist(),
            "trained": torch.isin(torch.arange(len(completions)), experience.rows.cpu()).tolist(),
            "length": rollout.lengths.tolist(),
            "truncated": rollout.truncated.tolist(),
        }
    )


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
