from __future__ import annotations

import io
import re

import lightning
import pytest
import torch
from rich.console import Console
from torch import nn

from r1lit.callbacks.progress import ProgressBar
from r1lit.data.module import StepDataModule
from r1lit.data.stream import PromptStream
from r1lit.types import Prompt

SHOWN = {
    "reward": ("reward", ".2f"),
    "mine": ("rewards/mine/mean", ".2f"),
    "length": ("completions/mean_length", ".1f"),
    "tok/s": ("perf/tokens_per_second", ",.0f"),
}


class Measuring(lightning.LightningModule):
    """Has metrics and the rollout's lengths at hand after each step, as GRPO has."""

    def __init__(self, fails_at: int | None = None):
        super().__init__()
        self.automatic_optimization = False
        self.weight, self.fails_at = nn.Parameter(torch.zeros(1)), fails_at

    def training_step(self, batch, batch_idx):
        if batch.step == self.fails_at:
            raise RuntimeError("stop here")
        lengths = {"completions/mean_length": 20.0, "perf/tokens_per_second": 1234.5}
        self.metrics = {"reward": 1.0 + batch.step, "rewards/mine/mean": 0.5, **lengths}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters())


def shown(console: Console, steps: int, start: int = 0, module: Measuring | None = None, **options) -> str:
    data = StepDataModule(PromptStream({"a": [Prompt((1,), "q")]}, {"a": 1.0}, 1, 0), steps)
    data.start_step = start
    lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        callbacks=[ProgressBar(steps, SHOWN, console, **options)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module or Measuring(), datamodule=data)
    return console.file.getvalue()


def plain() -> Console:
    return Console(file=io.StringIO(), width=120)


def terminal() -> Console:
    return Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)


def test_lines_where_there_is_no_terminal():
    lines = shown(plain(), 3).splitlines()
    assert len(lines) == 3
    for step, reward, line in zip((1, 2, 3), ("1.00", "1.50", "2.00"), lines, strict=True):
        expected = rf"step {step}/3  reward {reward}  mine 0\.50  length 20\.0  tok/s 1,234  left \d+ s"
        assert re.fullmatch(expected, line), line


def test_a_long_run_prints_a_few_lines_and_the_first_and_the_last():
    lines = shown(plain(), 23, lines=4).splitlines()
    assert [line.split()[1] for line in lines] == ["1/23", "5/23", "10/23", "15/23", "20/23", "23/23"]
    assert "reward 18.50" in lines[-1], "the mean of the last ten steps"


def test_a_resumed_run_counts_from_where_it_stopped():
    assert [line.split()[1] for line in shown(plain(), 6, start=4).splitlines()] == ["5/6", "6/6"]


def test_a_bar_in_a_terminal():
    text = shown(terminal(), 4)
    last = [line for line in re.split(r"[\r\n]|\x1b\[[\d;?]*[A-Za-z]", text) if line.strip()][-1]
    for part in ("training", "4/4", "reward 2.50", "mine 0.50", "length 20.0", "tok/s 1,234", "left"):
        assert part in last
    assert text.rstrip().endswith("\x1b[?25h"), "the cursor is shown again"


def test_a_run_that_fails_gives_the_terminal_back():
    console = terminal()
    with pytest.raises(RuntimeError, match="stop here"):
        shown(console, 4, module=Measuring(fails_at=2))
    assert console.file.getvalue().rstrip().endswith("\x1b[?25h")
