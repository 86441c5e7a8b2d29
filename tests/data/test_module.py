from __future__ import annotations

import warnings

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from r1lit.data.module import StepDataModule
from r1lit.data.stream import PromptStream
from r1lit.types import Prompt

STEPS = 9


class Toy(LightningModule):
    """Takes two optimizer steps a batch, notes what it is given, and may fail on the way."""

    def __init__(self, fails_at: int | None = None):
        super().__init__()
        self.automatic_optimization = False
        self.layer = torch.nn.Linear(1, 1)
        self.fails_at = fails_at
        self.seen: list[tuple[int, list[str]]] = []

    def training_step(self, batch, batch_idx):
        step, prompts = batch
        if step == self.fails_at:
            raise RuntimeError("power cut")
        assert step == batch_idx
        self.seen.append((step, [prompt.raw for prompt in prompts]))
        for _ in range(2):
            self.optimizers().zero_grad()
            self.manual_backward(self.layer(torch.ones(1, 1)).sum())
            self.optimizers().step()
        self.log("step_metric", float(step), batch_size=len(prompts))
        self.trainer.datamodule.start_step = step + 1

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def data_module(steps=STEPS):
    prompts = [Prompt((n,), str(n), {"answer": n}) for n in range(7)]
    return StepDataModule(PromptStream({"a": prompts}, {"a": 1.0}, batch_size=4, seed=0), steps)


def fit(folder, module, steps=STEPS, precision="32-true", resume=None, **kwargs):
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        precision=precision,
        callbacks=[ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")],
        **kwargs,
    )
    trainer.fit(module, datamodule=data_module(steps), ckpt_path=resume, weights_only=True if resume else None)
    return module.seen


def test_the_run_is_given_every_step_once(tmp_path):
    seen = fit(tmp_path, Toy())
    stream = data_module().stream
    assert seen == [(step, [prompt.raw for prompt in stream.batch(step)]) for step in range(STEPS)]


@pytest.mark.parametrize("stop", [1, 4, STEPS - 1])
def test_a_resumed_run_goes_on_where_it_stopped(tmp_path, stop):
    whole = fit(tmp_path / "whole", Toy())
    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path / "cut", Toy(fails_at=stop))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not resumable.*")
        resumed = fit(tmp_path / "resumed", Toy(), resume=tmp_path / "cut" / f"step={2 * stop}.ckpt")
    assert resumed == whole[stop:]


def test_a_finished_run_may_be_given_more_steps(tmp_path):
    fit(tmp_path / "short", Toy(), steps=4)
    resumed = fit(tmp_path / "long", Toy(), resume=tmp_path / "short" / "step=6.ckpt")
    assert resumed == fit(tmp_path / "whole", Toy())[3:]


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "64-true"])
def test_no_precision_meddles_with_the_prompts(tmp_path, precision):
    assert len(fit(tmp_path, Toy(), steps=2, precision=precision)) == 2
