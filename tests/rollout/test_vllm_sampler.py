"""The real vLLM, in this process, on a CPU; `test_vllm_environment` runs these where the suite itself lacks it.

One engine serves all tests, because it takes a while to start: each leaves it with the policy's weights.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from r1lit.models.loading import ModelSettings, load_policy
from r1lit.rollout import vllm_worker
from r1lit.rollout.settings import EngineSettings
from r1lit.rollout.transformers_sampler import TransformersSampler
from r1lit.rollout.vllm_engine import LocalEngine
from r1lit.rollout.vllm_sampler import VLLMSampler
from r1lit.rollout.vllm_weights import WeightPushError
from r1lit.settings import ConfigError
from r1lit.types import Prompt, Rollout, Sampling

pytest.importorskip("vllm")
pytestmark = pytest.mark.timeout(1200)

LONG = tuple((7 * n) % 600 for n in range(300))
PROMPTS = [Prompt(ids=ids, raw="") for ids in [LONG, LONG[5:9], LONG[40:95], LONG[:299]]]
"""Two of them fill blocks of the cache, which would be found there again after an update."""


@pytest.fixture(scope="module")
def policy():
    return load_policy(ModelSettings(path="tiny"))


@pytest.fixture(scope="module")
def sampler(policy) -> VLLMSampler:
    model, tokenizer = policy
    engine = LocalEngine(model, EngineSettings(enforce_eager=True, kv_cache_gb=0.1), 64, torch.float32)
    return VLLMSampler(engine, model, tokenizer)


def update(model: nn.Module, seed: int) -> None:
    """A step that changes what the model says."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=noise))


def assert_same(found: Rollout, expected: Rollout, apart: float = 1e-4) -> None:
    assert [group.completion_ids for group in found.groups] == [group.completion_ids for group in expected.groups]
    torch.testing.assert_close(found.logprobs, expected.logprobs, atol=apart, rtol=0)


def test_after_each_update_the_greedy_tokens_are_transformers_own(policy, sampler):
    model, tokenizer = policy
    plain, greedy = TransformersSampler(model, tokenizer), Sampling(temperature=0.0, max_tokens=24)
    before = None
    for seed in range(4):
        sampler.load_weights(model)
        rollout = sampler.generate(PROMPTS, 2, greedy, seed=0)
        assert_same(rollout, plain.generate(PROMPTS, 2, greedy, seed=0))
        assert before is None or [g.completion_ids for g in rollout.groups] != [g.completion_ids for g in before.groups]
        before = rollout
        update(model, seed)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.3, 0.8)])
def test_logprobs_are_of_the_distribution_that_was_drawn_from(policy, sampler, temperature, top_p):
    model, _ = policy
    sampler.load_weights(model)
    rollout = sampler.generate(PROMPTS, 3, Sampling(temperature, top_p, 16), seed=2)
    for row, prompt in enumerate(rollout.prompt_ids):
        ids = rollout.completion_ids[row][rollout.completion_mask[row]]
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].double()
        probabilities = (logits / temperature).softmax(-1)
        ranked, order = probabilities.sort(-1, descending=True)
        kept = torch.zeros_like(ranked).scatter(-1, order, ranked.where(ranked.cumsum(-1) - ranked < top_p, 0.0))
        expected = (kept / kept.sum(-1, keepdim=True)).gather(-1, ids[:, None])[:, 0].log()
        torch.testing.assert_close(rollout.logprobs[row, : len(ids)].double(), expected, atol=1e-4, rtol=0)
        assert not rollout.logprobs[row, len(ids) :].any()


def test_a_run_repeats_and_every_row_has_numbers_of_its_own(policy, sampler):
    sampler.load_weights(policy[0])
    sampling = Sampling(temperature=2.0, max_tokens=20)
    first, again, other = (sampler.generate(PROMPTS, 4, sampling, seed=seed) for seed in (5, 5, 6))
    assert_same(again, first, apart=1e-6)
    assert [g.completion_ids for g in other.groups] != [g.completion_ids for g in first.groups]
    assert any(len({tuple(ids) for ids in group.completion_ids}) > 1 for group in first.groups)


def test_each_group_is_handed_over_as_soon_as_it_is_finished(policy, sampler):
    sampler.load_weights(policy[0])
    seen: dict[int, bool] = {}
    engine = sampler.engine._engine

    def on_group(b, group):
        assert b not in seen
        assert len(group.completions) == 3
        seen[b] = engine.has_unfinished_requests()

    rollout = sampler.generate(PROMPTS, 3, Sampling(max_tokens=100), seed=1, on_group=on_group)
    assert sorted(seen) == [0, 1, 2, 3]
    assert any(seen.values())
    ends = [ids[-1] in sampler.stops for group in rollout.groups for ids in group.completion_ids]
    assert rollout.truncated.tolist() == [not end for end in ends]
    assert any(ends)


def test_a_listener_that_fails_leaves_the_engine_empty(policy, sampler):
    def on_group(b, group):
        raise KeyError("a reward")

    with pytest.raises(KeyError):
        sampler.generate(PROMPTS, 3, Sampling(max_tokens=30), seed=1, on_group=on_group)
    assert not sampler.engine._engine.has_unfinished_requests()
    sampler.generate(PROMPTS, 1, Sampling(max_tokens=2), seed=1)


class Broken:
    """A worker that spoils what it is sent."""

    def __init__(self, spoil):
        self.spoil, self.load = spoil, vllm_worker.WeightReceiver.r1lit_load

    def __get__(self, worker, kind):
        return lambda weights, version: self.load(worker, self.spoil(list(weights)), version)


def without_the_last_norm(weights):
    return [(name, tensor) for name, tensor in weights if name != "model.norm.weight"]


def one_layer_of_zeros(weights):
    return [(name, tensor * ("1.mlp.up_proj" not in name)) for name, tensor in weights]


@pytest.mark.parametrize(
    ("spoil", "named"),
    [(without_the_last_norm, "model.norm.weight"), (one_layer_of_zeros, "model.layers.1.mlp.gate_up_proj.weight")],
)
def test_a_push_that_loses_a_weight_stops_the_run(policy, sampler, monkeypatch, spoil, named):
    model, _ = policy
    update(model, 20)
    with monkeypatch.context() as patch:
        patch.setattr(vllm_worker.WeightReceiver, "r1lit_load", Broken(spoil))
        with pytest.raises(WeightPushError, match=rf"1 of the engine's 14 parameters .*\({named}\)"):
            sampler.load_weights(model)
    sampler.load_weights(model)


def test_a_push_of_old_weights_stops_the_run(policy, sampler, monkeypatch):
    model, _ = policy
    old = [(name, parameter.detach().clone()) for name, parameter in model.named_parameters()]
    update(model, 21)
    with monkeypatch.context() as patch:
        patch.setattr(vllm_worker.WeightReceiver, "r1lit_load", Broken(lambda weights: old))
        with pytest.raises(WeightPushError, match="14 of the engine's 14 parameters"):
            sampler.load_weights(model)
    sampler.load_weights(model)


def test_a_packed_copy_that_is_not_renewed_stops_the_run(policy, sampler, monkeypatch):
    model, _ = policy
    update(model, 22)
    with monkeypatch.context() as patch:
        patch.setattr(vllm_worker, "_repack", lambda model, packed: None)
        with pytest.raises(WeightPushError, match=r"lm_head.weight \(its packed copy\)"):
            sampler.load_weights(model)
    sampler.load_weights(model)


def test_tokens_of_other_weights_stop_the_run(sampler):
    sampler.engine._engine.set_weight_version("of somebody else")
    with pytest.raises(WeightPushError, match="drew tokens with weights of somebody else"):
        sampler.generate(PROMPTS, 1, Sampling(max_tokens=4), seed=0)
    sampler.engine._engine.set_weight_version(sampler.version)


def test_an_engine_that_computes_something_else_is_refused(policy, sampler, monkeypatch):
    """The digests agree, and yet what comes out is not what the policy says."""
    model, tokenizer = policy
    sampler.load_weights(model)
    monkeypatch.setattr("r1lit.rollout.vllm_sampler._policy_logprobs", lambda *_: torch.full((8,), -3.0))
    with pytest.raises(WeightPushError, match="nats from the policy's"):
        VLLMSampler(sampler.engine, model, tokenizer)
    monkeypatch.undo()
    sampler.load_weights(model)


def test_a_prompt_without_room_is_refused(sampler):
    with pytest.raises(ValueError, match=r"a prompt of 300 tokens .*max_tokens=300 need more than the engine's 512"):
        sampler.generate(PROMPTS, 1, Sampling(max_tokens=300), seed=0)


def test_an_engine_longer_than_the_model_is_refused_before_it_starts(policy):
    with pytest.raises(ConfigError, match=r"max_model_len=513 is more than the model's 512 positions; set .*=512"):
        LocalEngine(policy[0], EngineSettings(max_model_len=513), 4, torch.float32)
