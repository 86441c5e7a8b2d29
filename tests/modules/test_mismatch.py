"""Samples of another engine: the mismatch is measured, and the surrogate corrected, without a further forward pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from r1lit.functional import sampling_ratio
from r1lit.models.loading import ModelSettings, load_policy
from r1lit.models.logprobs import completion_logprobs
from r1lit.models.packing import collate
from r1lit.modules.grpo import GRPO
from r1lit.modules.settings import AlgorithmSettings, OptimizerSettings
from r1lit.rollout.transformers_sampler import TransformersSampler
from r1lit.types import Prompt, Sampling, Scored

PROMPTS = [Prompt(ids=(5 + n, 9, 11), raw="") for n in range(4)]
DIFFERENCE, RATIO = "sampling/sampling_logp_difference", "sampling/importance_sampling_ratio"


class OtherEngine(TransformersSampler):
    """One that says of every token that it was a little likelier or less likely than the policy does."""

    exact_logprobs = False

    def generate(self, *arguments, **options):
        rollout = super().generate(*arguments, **options)
        noise = 0.3 * torch.randn(rollout.logprobs.shape, generator=torch.Generator().manual_seed(2))
        return replace(rollout, logprobs=rollout.logprobs + noise * rollout.completion_mask)


class Thirds:
    def submit(self, index, group):
        pass

    def gather(self, rollout, progress=1.0):
        shares = [[sum(i % 3 == 0 for i in ids) / len(ids)] for group in rollout.groups for ids in group.completion_ids]
        return Scored(rollout, ("thirds",), torch.tensor([1.0]), torch.tensor(shares))


def build(sampler=OtherEngine, **algorithm) -> GRPO:
    policy, tokenizer = load_policy(ModelSettings(path="tiny"))
    return GRPO(
        policy,
        sampler(policy, tokenizer),
        Thirds(),
        AlgorithmSettings(**{"prompts_per_step": 4, "group_size": 4, **algorithm}),
        OptimizerSettings(),
        Sampling(max_tokens=12),
    )


def learn(module: GRPO):
    """The gradient of one update, its minibatch and its metrics."""
    scored = module.score(PROMPTS, 0)
    experience = module.annotate(scored, module.trained_groups(scored, 4))
    minibatch = experience.minibatch(torch.arange(16), "sequence", 12)
    module.zero_grad()
    for part, _ in module.passes(module.policy, minibatch.trajectories):
        module.loss(part, minibatch)[0].backward()
    return [parameter.grad.clone() for parameter in module.policy.parameters()], minibatch, module.mismatch.read()


@pytest.mark.parametrize("kl_coef", [0.0, 0.5])
@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_the_surrogate_alone_is_weighted(mode, kl_coef):
    """On-policy the surrogate's gradient is ratio x advantage x that of log pi, and the KL keeps its own."""
    module = build(sampling_correction=mode, sampling_correction_max=1.2, kl_coef=kl_coef)
    if kl_coef:
        with torch.no_grad():
            for parameter in module.reference.parameters():
                parameter.mul_(1.05)
    found, minibatch, metrics = learn(module)
    mask = minibatch.completion_mask
    rows = collate(minibatch.trajectories, [[row] for row in range(16)])
    table, _ = completion_logprobs(module.policy, rows, mask, temperature=module.temperature)
    ratio = sampling_ratio(table, minibatch.sampling_logprobs, mask, mode, None, 1.2).detach()
    gain = ratio * minibatch.advantages[:, None] * table
    if kl_coef:
        apart = minibatch.ref_logprobs - table
        gain = gain - kl_coef * (apart.exp() - 1 - apart)
    expected = torch.autograd.grad(-(minibatch.weights * gain).masked_fill(~mask, 0).sum(), module.policy.parameters())
    assert max(gradient.abs().max() for gradient in expected) > 1e-3
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)
    difference = (table - minibatch.sampling_logprobs).abs()[mask]
    assert metrics[f"{DIFFERENCE}/mean"] == pytest.approx(difference.mean().item(), rel=1e-4)
    assert metrics[f"{DIFFERENCE}/max"] == pytest.approx(difference.max().item(), rel=1e-4)
    assert metrics[f"{RATIO}/max"] <= 1.2 + 1e-6
    assert metrics[f"{RATIO}/min"] < metrics[f"{RATIO}/mean"] < metrics[f"{RATIO}/max"]


def test_micro_batches_change_neither_the_gradient_nor_the_metrics():
    whole, _, metrics = learn(build(micro_batch_tokens=4096))
    parts, _, others = learn(build(micro_batch_tokens=50))
    for mine, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-4)
    assert others == pytest.approx(metrics, rel=1e-4)


def test_one_update_a_rollout_needs_no_forward_pass_of_its_own():
    module = build()
    scored = module.score(PROMPTS, 0)
    experience = module.annotate(scored, module.trained_groups(scored, 4))
    assert experience.old_logprobs is None
    assert experience.sampling_logprobs is scored.rollout.logprobs


def test_what_is_corrected_by_default():
    assert build().mismatch.mode == "sequence_mask"
    assert build(sampling_correction="none").mismatch.mode == "none"
    own = build(TransformersSampler)
    assert (own.mismatch.mode, own.mismatch.wanted) == ("none", False)
    _, minibatch, metrics = learn(own)
    assert minibatch.sampling_logprobs is None
    assert metrics == {}


def test_uncorrected_the_mismatch_is_still_measured():
    found, _, metrics = learn(build(sampling_correction="none"))
    expected, _, _ = learn(build(TransformersSampler))
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other)
    assert metrics.keys() == {f"{DIFFERENCE}/mean", f"{DIFFERENCE}/max"}
    assert metrics[f"{DIFFERENCE}/mean"] == pytest.approx(0.24, abs=0.05)  # 0.3 sqrt(2 / pi)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sampling_correction_min": 3.0}, "sampling_correction_min=3.0 is not below sampling_correction_max=3.0"),
        (
            {"sampling_correction": "token_truncate", "sampling_correction_max": None},
            "nothing would be cut; set sampling_correction_max=3",
        ),
    ],
)
def test_bounds_that_bound_nothing_are_mistakes(settings, said):
    with pytest.raises(ValueError, match=said):
        AlgorithmSettings(**settings)
