from __future__ import annotations

import json
import math
from pathlib import Path

import lightning
import pytest
import torch
from torch import nn

from r1lit.callbacks.evaluation import PeriodicEvaluation
from r1lit.callbacks.recorder import Recorder, read_metrics
from r1lit.data.module import StepDataModule
from r1lit.data.stream import PromptStream
from r1lit.types import Prompt


class Measuring(lightning.LightningModule):
    """Has the metrics of each step at hand, as GRPO has."""

    def __init__(self, metrics=lambda step: {"reward": step / 2}):
        super().__init__()
        self.automatic_optimization = False
        self.weight, self.of_step, self.metrics = nn.Parameter(torch.zeros(1)), metrics, {}

    def training_step(self, batch, batch_idx):
        self.metrics = self.of_step(batch.step)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters())


def train(
    module: Measuring, *callbacks: lightning.Callback, steps: int = 4, start: int = 0, logger: object = False
) -> None:
    data = StepDataModule(PromptStream({"a": [Prompt((1,), "q")]}, {"a": 1.0}, 1, 0), steps)
    data.start_step = start
    lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=logger,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, datamodule=data)


def test_one_line_a_step(tmp_path):
    train(Measuring(), Recorder(tmp_path))
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": n, "reward": n / 2} for n in range(4)]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_what_is_not_finite_becomes_null_and_stays_json(tmp_path):
    odd = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0}
    train(Measuring(lambda step: odd), Recorder(tmp_path), steps=1)

    def refuse(constant: str):
        raise AssertionError(f"{constant} is not JSON")

    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=refuse) == {"step": 0, "a": None, "b": None, "c": None, "d": 1.0}


def test_a_resumed_run_drops_the_steps_that_it_runs_again_and_half_a_line(tmp_path):
    old = [{"step": n, "reward": 9.0} for n in range(4)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in old) + '{"step": 4, "rew')
    train(Measuring(), Recorder(tmp_path), steps=5, start=2)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["reward"] for row in rows] == [9.0, 9.0, 1.0, 1.5, 2.0]


def test_reading(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text("")
    assert read_metrics(path) == []
    path.write_text('{"step": 0}\n{"step": 1}\n{"st')
    assert read_metrics(path) == [{"step": 0}, {"step": 1}]


def test_loggers_get_the_same(tmp_path):
    logger = lightning.pytorch.loggers.CSVLogger(tmp_path, name="csv")
    train(Measuring(), Recorder(tmp_path), logger=logger)
    header, *lines = Path(logger.log_dir, "metrics.csv").read_text().splitlines()
    assert header == "reward,step" and lines == ["0.0,0", "0.5,1", "1.0,2", "1.5,3"]


@pytest.mark.parametrize(("every", "at"), [(1, [0, 1, 2, 3]), (2, [1, 3]), (3, [2]), (9, [])])
def test_a_periodic_evaluation_joins_its_steps_metrics(tmp_path, every, at):
    logger = lightning.pytorch.loggers.CSVLogger(tmp_path, name="csv")
    evaluation = PeriodicEvaluation(lambda: {"pass@1": 0.25}, every)
    train(Measuring(), evaluation, Recorder(tmp_path), logger=logger)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if row.get("validation/pass@1") == 0.25] == at
    header = Path(logger.log_dir, "metrics.csv").read_text().splitlines()[0]
    assert ("validation/pass@1" in header) == bool(at)
