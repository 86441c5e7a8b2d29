"""Alarms against figures worked out by hand, and in a real Lightning run."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import lightning
import pytest
import torch

from r1lit.callbacks.alarms import AlarmSettings, HackingAlarms, alarm_problems, watched
from r1lit.callbacks.recorder import Recorder, read_metrics
from r1lit.data.module import StepDataModule
from r1lit.rewards.spec import RewardSettings

REWARDS = {
    "accuracy": RewardSettings(_target_="r1lit.rewards.accuracy.accuracy"),
    "format": RewardSettings(_target_="r1lit.rewards.format.format"),
    "preference": RewardSettings(_target_="r1lit.rewards.neural.Preference"),
}
SETTINGS = AlarmSettings(window=2, min_rise=0.5, length_ratio=1.5, format_drop=0.1, clipped_rise=0.1, every=3)
STILL = {"completions/mean_length": 100.0, "rewards/format/mean": 0.9, "completions/clipped_ratio": 0.05}


class Scripted(lightning.LightningModule):
    """A module whose metrics are written down beforehand."""

    def __init__(self, steps: list[dict[str, float]]):
        super().__init__()
        self.automatic_optimization = False
        self.weight, self.steps, self.metrics = torch.nn.Parameter(torch.zeros(1)), steps, {}

    @property
    def total_steps(self) -> int:
        return len(self.steps)

    def training_step(self, batch, batch_idx):
        self.metrics = dict(self.steps[batch.step])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(folder, steps, settings=SETTINGS, rewards=REWARDS, start=0, until=None):
    """A real fit over the scripted steps; what was recorded."""
    folder.mkdir(exist_ok=True)
    module = Scripted(steps)
    data = StepDataModule(SimpleNamespace(batch=lambda step: []), until or len(steps))
    data.start_step = start
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[HackingAlarms(folder, rewards, settings), Recorder(folder)],
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return read_metrics(folder / "metrics.jsonl")


def step(mean: float, std: float = 0.4, **changes: float) -> dict[str, float]:
    return (
        STILL
        | {"rewards/preference/mean": mean, "rewards/preference/std": std}
        | {
            {
                "length": "completions/mean_length",
                "format": "rewards/format/mean",
                "clipped": "completions/clipped_ratio",
            }[name]: value
            for name, value in changes.items()
        }
    )


def warned(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "r1lit.callbacks.alarms"]


def fired(rows, what: str) -> list[float]:
    return [row[f"alarms/{what}"] for row in rows]


def test_a_reward_that_rises_as_completions_grow(tmp_path, caplog):
    """Start 0.1 and 100 tokens; the last two steps' means are 0.25, 0.35, 0.45 and 120, 145, 170 tokens. A rise of more
    than half of 0.4 and a growth of more than half come together in the last step only."""
    lengths = [100, 100, 110, 130, 160, 180]
    steps = [step(mean, length=n) for mean, n in zip([0.1, 0.1, 0.2, 0.3, 0.4, 0.5], lengths, strict=True)]
    with caplog.at_level(logging.WARNING, "r1lit"):
        rows = train(tmp_path, steps)
    assert fired(rows, "length") == [0, 0, 0, 0, 0, 1]
    assert fired(rows, "format") == fired(rows, "clipped_ratio") == [0] * 6
    (message,) = warned(caplog)
    for part in (
        "step 6: reward preference rose from 0.1 to 0.45, 0.9 standard deviations",
        "completions/mean_length went from 100 to 170",
        "lower reward.preference.weight",
    ):
        assert part in message
    assert "clipped" not in message


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("length", {"length": 60.0}),
        ("length", {"length": 160.0}),
        ("format", {"format": 0.7}),
        ("clipped_ratio", {"clipped": 0.2}),
    ],
)
def test_each_drift_by_itself(tmp_path, what, changes):
    rows = train(tmp_path, [step(0.0)] * 2 + [step(1.0, **changes)] * 2)
    alarms = {name: fired(rows, name)[-1] for name in ("length", "format", "clipped_ratio")}
    assert alarms == {"length": 0, "format": 0, "clipped_ratio": 0} | {what: 1}


@pytest.mark.parametrize(
    "last",
    [
        step(1.0),
        step(0.1, length=300),
        step(-1.0, length=300, format=0.1, clipped=0.9),
        step(1.0, length=140, format=0.85, clipped=0.1),
        step(1.0, format=1.0, clipped=0.0),
        step(1.0, std=9.0),
    ],
)
def test_neither_alone_is_an_alarm(tmp_path, caplog, last):
    rows = train(tmp_path, [step(0.0)] * 2 + [last] * 4)
    assert not any(fired(rows, "length") + fired(rows, "format") + fired(rows, "clipped_ratio"))
    assert not warned(caplog)


def test_the_deviation_is_that_of_the_start(tmp_path):
    rows = train(tmp_path, [step(0.0, std=3.0)] * 2 + [step(1.0, std=0.1, length=300)] * 2)
    assert fired(rows, "length")[-1] == 0
    rows = train(tmp_path, [step(0.0, std=0.0)] * 2 + [step(0.01, length=300)] * 2)
    assert fired(rows, "length")[-1] == 1


def test_warnings_come_now_and_then_and_metrics_every_step(tmp_path, caplog):
    rows = train(tmp_path, [step(0.0)] * 2 + [step(1.0, length=300)] * 7)
    assert fired(rows, "length") == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert [message.split(":")[0] for message in warned(caplog)] == ["step 4", "step 7"]


def test_a_reward_that_is_switched_on_late_starts_then(tmp_path):
    """What drifted before it had a weight is not its doing."""
    late = REWARDS | {
        "preference": RewardSettings(_target_="r1lit.rewards.neural.Preference", schedule=[[0.5, 0], [0.5, 1]])
    }
    steps = [step(0.0)] * 4 + [step(1.0, length=300)] * 4
    assert fired(train(tmp_path / "always", steps), "length")[-1] == 1
    assert not any(fired(train(tmp_path / "late", steps, rewards=late), "length"))
    steps = [step(0.0)] * 4 + [step(1.0, length=300)] * 2 + [step(2.0, length=600)] * 2
    assert fired(train(tmp_path / "again", steps, rewards=late), "length") == [0] * 7 + [1]


def test_a_resumed_run_remembers_its_start(tmp_path):
    steps = [step(0.0)] * 2 + [step(1.0, length=300)] * 3
    whole = train(tmp_path / "whole", steps)
    train(tmp_path / "parts", steps, until=3)
    assert train(tmp_path / "parts", steps, start=3) == whole
    assert fired(whole, "length") == [0, 0, 0, 1, 1]


def test_values_that_are_missing_or_not_finite_are_left_out(tmp_path):
    steps = [step(0.0)] * 2 + [STILL, step(float("nan")), step(1.0, length=300), step(1.0, length=300)]
    assert fired(train(tmp_path, steps), "length")[-1] == 1
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[3]["rewards/preference/mean"] is None


def test_what_is_watched():
    plain = AlarmSettings()
    assert watched(REWARDS, plain) == ["preference"]
    assert watched(REWARDS | {"brevity": RewardSettings(_target_="b.b", weight=0)}, plain) == ["preference"]
    assert watched(REWARDS | {"language": RewardSettings(_target_="l.l")}, plain) == ["preference", "language"]
    assert watched(REWARDS, AlarmSettings(rewards=["accuracy"])) == ["accuracy"]
    assert watched(REWARDS, AlarmSettings(enabled=False)) == []
    assert alarm_problems(REWARDS, AlarmSettings(rewards=["preferense"])) == [
        "alarms.rewards names preferense, which is not among the chosen rewards; did you mean preference?"
    ]
    assert alarm_problems(REWARDS, plain) == []


def test_without_anything_to_watch_nothing_is_added(tmp_path):
    rows = train(tmp_path, [step(0.0)] * 4, rewards={"accuracy": REWARDS["accuracy"]})
    assert not any(name.startswith("alarms/") for row in rows for name in row)
