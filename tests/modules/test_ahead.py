"""Sampling ahead of learning: which weights a rollout comes from, what waits for what, and what a checkpoint keeps."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from r1lit.modules.ahead import Ahead
from r1lit.modules.kept_rollouts import pack, unpack
from r1lit.modules.timing import PhaseTimer
from r1lit.types import Group, Prompt, Rollout, Sampling, Scored

QUICK = (
    "algorithm.steps=4",
    "algorithm.prompts_per_step=4",
    "algorithm.group_size=4",
    "rollout.max_tokens=24",
    "evaluation.enabled=false",
    "preflight.enabled=false",
    "optimizer.lr=1e-3",
)


class Copies:
    """A sampler's weights, a copy of the policy's."""

    def __init__(self, in_step: bool = False):
        self.in_step = in_step
        self.weight = 0.0

    def load_weights(self, policy: nn.Linear) -> None:
        self.weight = policy.weight.item()


def versions(staleness: int, steps: int = 6, slow: bool = False) -> list[tuple[int, float]]:
    """What a run learns from: each step's age of the weights, and the weights, which are the number of updates."""
    policy, sampler = nn.Linear(1, 1), Copies()
    nn.init.zeros_(policy.weight)
    learnt, gate = [], threading.Semaphore(0)

    def draw(step: int, prompts: list) -> float:
        if slow:
            gate.acquire()
        return sampler.weight

    ahead = Ahead(draw, sampler, policy, staleness, lambda step: [], steps, PhaseTimer())
    sampler.load_weights(policy)
    for step in range(steps):
        gate.release()
        weight, age = ahead.take(step, [])
        learnt.append((age, weight))
        with torch.no_grad():
            policy.weight += 1
        ahead.follow()
    ahead.close()
    return learnt


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("staleness", [0, 1, 2, 3])
def test_a_rollout_is_exactly_so_many_steps_old_however_fast_it_is_drawn(staleness, slow):
    """Where sampling is slow, several rollouts wait for the sampler, each with weights of its own."""
    expected = [(min(step, staleness), float(max(0, step - staleness))) for step in range(6)]
    assert versions(staleness, slow=slow) == expected


def test_processes_that_push_together_do_so_from_their_training_threads():
    """Beside the training they could push in another order than their peers."""
    policy, threads = nn.Linear(1, 1), []

    class Pushed(Copies):
        def load_weights(self, policy: nn.Linear) -> None:
            super().load_weights(policy)
            threads.append(threading.current_thread())

    sampler, learnt = Pushed(in_step=True), []
    nn.init.zeros_(policy.weight)
    ahead = Ahead(
        lambda step, prompts: time.sleep(0.02) or sampler.weight, sampler, policy, 3, lambda step: [], 6, PhaseTimer()
    )
    for step in range(6):
        learnt.append(ahead.take(step, []))
        with torch.no_grad():
            policy.weight += 1
    ahead.close()
    assert learnt == [(float(max(0, step - 3)), min(step, 3)) for step in range(6)]
    assert set(threads) == {threading.main_thread()}


def test_an_error_while_sampling_stops_the_training_at_the_step_it_belongs_to():
    def draw(step, prompts):
        if step == 1:
            raise ArithmeticError("step 1")
        return step

    ahead = Ahead(draw, Copies(), nn.Linear(1, 1), 1, lambda step: [], 3, PhaseTimer())
    assert ahead.take(0, []) == (0, 0)
    with pytest.raises(ArithmeticError, match="step 1"):
        ahead.take(1, [])
    ahead.close()


def test_a_scored_rollout_survives_its_packing():
    prompts = [Prompt((5, 6), "a", {"answer": "1"}), Prompt((7,), "b")]
    groups = (
        Group(prompts[0], [[1, 2], [3]], ["x", "y"], [False, True]),
        Group(prompts[1], [[4], [1, 2, 3]], ["z", ""], [True, False]),
    )
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 0, 0], [1, 1, 1]], dtype=torch.bool)
    ids = torch.tensor([[1, 2, 0], [3, 0, 0], [4, 0, 0], [1, 2, 3]])
    rollout = Rollout(groups, ids, mask, torch.rand(4, 3), Sampling(0.7, 0.9, 3))
    scored = Scored(rollout, ("r",), torch.tensor([0.5]), torch.rand(4, 1), {"r": {"timeout": 2}})
    again = unpack(pack(scored), prompts)
    assert again.rollout.groups == groups and again.rollout.sampling == rollout.sampling
    assert (again.names, again.failures) == (scored.names, scored.failures)
    for ours, theirs in [
        (again.rollout.completion_ids, ids),
        (again.rollout.completion_mask, mask),
        (again.rollout.logprobs, rollout.logprobs),
        (again.columns, scored.columns),
        (again.weights, scored.weights),
    ]:
        assert torch.equal(ours, theirs)
    assert unpack(pack(scored), prompts[::-1]) is None


def rows(run: Path) -> list[dict]:
    kept = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(("time", "perf"))} for row in kept]


def test_a_run_that_samples_ahead_learns_from_older_weights_and_resumes_bit_for_bit(r1lit, tmp_path):
    r1lit(*QUICK, "rollout.staleness=2", "trainer.checkpoint_every=1", "trainer.keep_checkpoints=9", "name=whole")
    (whole,) = (tmp_path / "runs" / "whole").iterdir()
    assert [row["rollout/staleness"] for row in rows(whole)] == [0, 1, 2, 2]
    stopped = Path(shutil.copytree(whole, tmp_path / "stopped"))
    shutil.rmtree(stopped / "model")
    for step in (4, 3):
        (stopped / "checkpoints" / f"step_{step:06d}.ckpt").unlink()
    r1lit(f"resume={stopped}")
    assert rows(stopped) == rows(whole)
    models = [(run / "model" / "model.safetensors").read_bytes() for run in (stopped, whole)]
    assert models[0] == models[1]
