from __future__ import annotations

import resource
import signal
from pathlib import Path

import lightning
import pytest
import torch
from torch import nn

from r1lit.callbacks.checkpointing import Checkpointer, RunInterruptedError, _replace, checkpoints
from r1lit.callbacks.storage import StorageError
from r1lit.data.module import StepDataModule
from r1lit.data.stream import PromptStream
from r1lit.types import Prompt


class Counting(lightning.LightningModule):
    """Counts its steps in a weight; ``during`` is called in each."""

    def __init__(self, steps: int, width: int = 4, during=lambda step: None):
        super().__init__()
        self.automatic_optimization = False
        self.total_steps = steps
        self.weight, self.during = nn.Parameter(torch.zeros(width)), during

    def training_step(self, batch, batch_idx):
        self.weight.data += 1
        self.during(batch.step)
        self.optimizers().step()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters())


def train(module: Counting, checkpointer: Checkpointer, resume: Path | None = None) -> None:
    stream = PromptStream({"a": [Prompt((1,), "q")]}, {"a": 1.0}, 1, 0)
    data = StepDataModule(stream, module.total_steps)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        callbacks=[checkpointer],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_the_newest_are_kept_and_the_last_step_is_saved(tmp_path):
    train(Counting(7), Checkpointer(tmp_path, every=2, keep=2))
    assert names(tmp_path) == ["step_000006.ckpt", "step_000007.ckpt"]
    assert [path.name for path in checkpoints(tmp_path)] == names(tmp_path)
    state = torch.load(checkpoints(tmp_path)[-1], weights_only=True)["state_dict"]
    assert state["weight"].tolist() == [7.0] * 4


def test_without_a_period_nothing_is_saved(tmp_path):
    train(Counting(3), Checkpointer(tmp_path, every=0, keep=1))
    assert checkpoints(tmp_path) == []


def test_it_goes_on_where_it_stopped_and_clears_what_a_killed_save_left(tmp_path):
    train(Counting(4), Checkpointer(tmp_path, every=2, keep=9))
    (tmp_path / "checkpoints" / "step_000003.part").write_bytes(b"half")
    (tmp_path / "checkpoints" / "step_000009-copy.ckpt").write_bytes(b"someone's")
    steps = []
    module = Counting(6, during=steps.append)
    train(module, Checkpointer(tmp_path, every=2, keep=9), resume=checkpoints(tmp_path)[-1])
    assert steps == [4, 5] and module.weight.tolist() == [6.0] * 4
    assert [path.stem for path in checkpoints(tmp_path)] == ["step_000002", "step_000004", "step_000006"]
    assert not list((tmp_path / "checkpoints").glob("*.part"))


@pytest.mark.parametrize("calls", range(3))
def test_shards_that_take_the_place_of_others_are_found_wherever_it_is_killed(tmp_path, monkeypatch, calls):
    """A checkpoint in shards of a step that has one, with the process gone after so many of its renamings."""
    folder = tmp_path / "checkpoints"
    for name, text in (("step_000002.ckpt", "old"), ("step_000002.part", "new")):
        (folder / name).mkdir(parents=True)
        (folder / name / "shard").write_text(text)
    left, rename = iter(range(calls)), Path.rename

    def killed_later(path: Path, target: Path) -> Path:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed_later)
        with pytest.raises(KeyboardInterrupt):
            _replace(folder / "step_000002.part", folder / "step_000002.ckpt")
    (found,) = checkpoints(tmp_path)
    assert (found / "shard").read_text() == ("old" if calls == 0 else "new")
    train(Counting(1), Checkpointer(tmp_path, every=0, keep=1))
    assert names(tmp_path) == ["step_000002.ckpt"]
    assert (folder / "step_000002.ckpt" / "shard").read_text() == ("old" if calls == 0 else "new")


def test_a_save_that_fails_half_way_leaves_the_earlier_one_and_says_how_to_go_on(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk(step: int) -> None:
        # 400 kB of weights: the system breaks the writing off in the middle.
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000 if step == 3 else soft, hard))

    module = Counting(6, width=100_000, during=fill_the_disk)
    handlers = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    try:
        with pytest.raises(StorageError) as caught:
            train(module, Checkpointer(tmp_path, every=2, keep=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["step_000002.ckpt"]
    assert torch.load(checkpoints(tmp_path)[0], weights_only=True)["state_dict"]["weight"][0] == 2
    text = str(caught.value)
    assert "step_000004.ckpt could not be written" in text and "ulimit -f" in text
    assert f"then go on from step_000002.ckpt: r1lit resume={tmp_path}" in text
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_step_finish_and_saves_it(tmp_path, signum):
    before = signal.getsignal(signum)
    module = Counting(9, during=lambda step: signal.raise_signal(signum) if step == 4 else None)
    with pytest.raises(RunInterruptedError) as caught:
        train(module, Checkpointer(tmp_path, every=0, keep=1))
    assert caught.value.exit_code == 128 + signum
    assert f"r1lit resume={tmp_path}" in str(caught.value)
    assert names(tmp_path) == ["step_000005.ckpt"] and module.weight[0] == 5
    assert signal.getsignal(signum) == before


def test_a_signal_in_the_last_step_changes_nothing(tmp_path):
    module = Counting(3, during=lambda step: signal.raise_signal(signal.SIGTERM) if step == 2 else None)
    train(module, Checkpointer(tmp_path, every=0, keep=1))
    assert names(tmp_path) == ["step_000003.ckpt"]
