"""The algorithm as a whole, on a small policy: gradients, seeds, resampling, and what happens when it diverges."""

from __future__ import annotations

import math
from collections import Counter
from functools import cache

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from r1lit.data.module import StepBatch
from r1lit.models.loading import ModelSettings, load_policy, load_tokenizer
from r1lit.modules.grpo import GRPO
from r1lit.modules.metrics import Means
from r1lit.modules.settings import AlgorithmSettings, OptimizerSettings
from r1lit.modules.update import TrainingDivergedError
from r1lit.rollout.transformers_sampler import TransformersSampler
from r1lit.text.encoding import PromptEncoder
from r1lit.types import Prompt, Sampling, Scored

SHORT = Sampling(max_tokens=12)


class Thirds:
    """Rewards the share of token ids that three divides, which a policy that samples differs in; in this process."""

    def __init__(self, uniform: frozenset[int] = frozenset()):
        self.uniform, self.seen = uniform, Counter()

    def submit(self, index, group):
        self.seen[index] += 1

    def gather(self, rollout, progress=1.0):
        values = [
            [0.5 if group.prompt.columns["number"] in self.uniform else sum(i % 3 == 0 for i in ids) / len(ids)]
            for group in rollout.groups
            for ids in group.completion_ids
        ]
        return Scored(rollout, ("thirds",), torch.tensor([1.0]), torch.tensor(values))


@cache
def encoder() -> PromptEncoder:
    return PromptEncoder(load_tokenizer(ModelSettings(path="tiny")))


def prompts(count: int = 4, start: int = 0) -> list[Prompt]:
    """Questions of several lengths, to which the tiny model has more than one answer."""
    return [
        Prompt(ids=encoder().encode(f"What is {'+'.join('12345'[: 3 + n % 3])}?")[0], raw=str(n), columns={"number": n})
        for n in range(start, start + count)
    ]


def build(rewards=None, lr: float = 1e-3, sampling: Sampling = SHORT, **algorithm) -> GRPO:
    policy, tokenizer = load_policy(ModelSettings(path="tiny"))
    settings = AlgorithmSettings(**{"steps": 2, "prompts_per_step": 4, "group_size": 4, **algorithm})
    return GRPO(
        policy=policy,
        sampler=TransformersSampler(policy, tokenizer),
        rewards=rewards or Thirds(),
        algorithm=settings,
        optimizer=OptimizerSettings(lr=lr),
        sampling=sampling,
        seed=3,
    )


def train(module: GRPO, batches: list[list[Prompt]], after_step=lambda module: None) -> None:
    """A real Lightning fit over the batches; ``after_step`` looks at the module after each."""

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            after_step(module)

    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        callbacks=[Watch()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    steps = [StepBatch(step, batch) for step, batch in enumerate(batches)]
    trainer.fit(module, DataLoader(steps, batch_size=None, collate_fn=lambda batch: batch))


def annotated(module: GRPO):
    """What one step learns from, every group taking part."""
    scored = module.score(prompts(), 0)
    return module.annotate(scored, module.trained_groups(scored, 4))


def gradients(module: GRPO, tokens: int, packing: str = "auto") -> list[torch.Tensor]:
    """The gradient of one whole update, accumulated in micro-batches of ``tokens`` tokens."""
    module.algorithm = module.algorithm.model_copy(update={"micro_batch_tokens": tokens})
    module.packing = packing
    experience = annotated(module)
    minibatch = experience.minibatch(torch.arange(16), module.algorithm.aggregation, module.sampling.max_tokens)
    module.zero_grad()
    for part, _ in module.passes(module.policy, minibatch.trajectories):
        module.loss(part, minibatch)[0].backward()
    return [parameter.grad.clone() for parameter in module.policy.parameters()]


@pytest.mark.parametrize("aggregation", ["sequence", "token", "constant", "sum"])
@pytest.mark.parametrize("ratio_level", ["token", "sequence"])
def test_neither_the_micro_batch_nor_packing_changes_the_gradient(aggregation, ratio_level):
    module = build(aggregation=aggregation, ratio_level=ratio_level, kl_coef=0.1, minibatches=2)
    module.double()
    torch.manual_seed(0)
    for parameter in module.policy.parameters():
        parameter.data.add_(1e-3 * torch.randn_like(parameter))
    whole = gradients(module, 10_000, "padded")
    largest = max(gradient.abs().max().item() for gradient in whole)
    assert largest > 1e-3
    for tokens, packing in ((10_000, "packed"), (70, "packed"), (70, "padded"), (1, "auto")):
        for part, expected in zip(gradients(module, tokens, packing), whole, strict=True):
            torch.testing.assert_close(part, expected, rtol=0, atol=1e-7 * largest)


def test_the_gradient_is_the_papers_by_hand():
    """GRPO on-policy, with KL, by the plain log-softmax of whole logits, a loop over rows and torch.std."""
    module = build(kl_coef=0.1, aggregation="sequence").double()
    with torch.no_grad():
        for parameter in module.reference.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    ours = gradients(module, 100)
    scored = module.score(prompts(), 0)
    rewards = scored.totals.view(4, 4)
    advantages = ((rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-4)).flatten()
    module.zero_grad()
    loss = 0.0
    rows = [(group.prompt.ids, ids) for group in scored.rollout.groups for ids in group.completion_ids]
    for (prompt, completion), advantage in zip(rows, advantages, strict=True):
        ids, at = torch.tensor([[*prompt, *completion]]), range(len(prompt) - 1, len(prompt) + len(completion) - 1)
        targets = torch.tensor(completion)[:, None]

        def logprobs(model, ids=ids, at=at, targets=targets):
            return model(ids).logits[0, list(at)].log_softmax(-1).gather(-1, targets)[:, 0]

        new = logprobs(module.policy)
        with torch.no_grad():
            ref = logprobs(module.reference)
        kl = torch.exp(ref - new) - (ref - new) - 1
        loss = loss + (-torch.exp(new - new.detach()) * advantage + 0.1 * kl).mean() / len(rows)
    loss.backward()
    for mine, parameter in zip(ours, module.policy.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-5, atol=1e-8)


def test_the_same_seed_trains_to_the_same_bits_and_another_does_not():
    def final(seed: int) -> list[torch.Tensor]:
        module = build(minibatches=2, kl_coef=0.01)
        module.seed = seed
        train(module, [prompts(), prompts(start=4)])
        return [parameter.detach().clone() for parameter in module.policy.parameters()]

    first, again, other = final(3), final(3), final(4)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_training_raises_the_reward():
    module = build(steps=12, minibatches=2, lr=3e-3, group_size=16)
    means = []
    batches = [prompts(start=4 * step) for step in range(12)]
    train(module, batches, lambda module: means.append(module.metrics["reward"]))
    assert len(means) == 12
    assert sum(means[-3:]) / 3 > sum(means[:3]) / 3 + 0.1


def test_the_samplers_logprobs_are_those_of_a_fresh_forward():
    module = build(minibatches=2, sampling=Sampling(temperature=0.7, max_tokens=12))
    rollout = module.score(prompts(), 0).rollout
    fresh = module.logprobs_under(module.policy, rollout, torch.arange(16))
    torch.testing.assert_close(module.sampling_logprobs(rollout, torch.arange(16)), fresh, rtol=0, atol=2e-5)


def test_truncated_sampling_recomputes_the_old_logprobs():
    module = build(minibatches=2, sampling=Sampling(top_p=0.5, max_tokens=12))
    rollout = module.score(prompts(), 0).rollout
    old = module.sampling_logprobs(rollout, torch.arange(16))
    assert (old - rollout.logprobs).abs().max() > 0.01
    torch.testing.assert_close(old, module.logprobs_under(module.policy, rollout, torch.arange(16)))


def test_the_reference_follows_every_so_many_steps():
    module = build(steps=3, kl_coef=0.01, reference_refresh=2)
    initial = [p.detach().clone() for p in module.reference.parameters()]
    seen = []

    def same(first, second) -> bool:
        return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))

    def look(module: GRPO) -> None:
        reference = list(module.reference.parameters())
        seen.append((same(reference, initial), same(reference, module.policy.parameters())))

    train(module, [prompts()] * 3, look)
    assert seen == [(True, False), (False, True), (False, False)]


@pytest.mark.parametrize("choice", ["keep", "skip", "resample"])
def test_uniform_groups(choice):
    module = build(rewards=Thirds(uniform=frozenset({1, 2, 101})), uniform_groups=choice, max_resamples=2)
    module.extra_prompts = lambda step, round: prompts(start=100 * (round + 1))
    scored = module.sample(0, prompts())
    experience = module.annotate(scored, module.trained_groups(scored, 4))
    sampled = [group.prompt.columns["number"] for group in scored.rollout.groups]
    assert sampled == [0, 1, 2, 3, *([100, 101, 102, 103] if choice == "resample" else [])]
    trained = [sampled[row // 4] for row in experience.rows[::4].tolist()]
    assert trained == {"keep": [0, 1, 2, 3], "skip": [0, 3], "resample": [0, 3, 100, 102]}[choice]
    taught = experience.advantages.view(-1, 4).abs().sum(-1) > 0
    assert [number for number, teaches in zip(sampled, taught.tolist(), strict=True) if teaches] == [
        number for number in trained if number not in (1, 2)
    ]
    (minibatch,) = experience.minibatches(1, 1, "sequence", 12, torch.Generator())
    assert len(minibatch.advantages) == 4 * len(trained)


def test_resampling_is_bounded():
    everything = frozenset(range(1000))
    module = build(rewards=Thirds(uniform=everything - {0, 100}), uniform_groups="resample", max_resamples=2)
    module.extra_prompts = lambda step, round: prompts(start=100 * (round + 1))
    scored = module.sample(0, prompts())
    assert len(scored.rollout.groups) == 12
    assert module.trained_groups(scored, 4).nonzero()[:, 0].tolist() == [0, 4]


def test_a_step_without_anything_to_learn_updates_nothing():
    module = build(rewards=Thirds(uniform=frozenset(range(100))), uniform_groups="skip", kl_coef=0.1)
    before = [p.detach().clone() for p in module.policy.parameters()]
    train(module, [prompts()])
    assert all(torch.equal(a, b) for a, b in zip(before, module.policy.parameters(), strict=True))
    assert module.metrics["frac_reward_zero_std"] == 1.0 and "loss" not in module.metrics


def test_truncated_completions_can_be_left_out_of_the_loss():
    module = build(mask_truncated=True, sampling=Sampling(max_tokens=3))
    experience = annotated(module)
    truncated = experience.scored.rollout.truncated
    assert truncated.any()
    assert not experience.trained[truncated].any()
    assert torch.equal(experience.trained[~truncated], experience.scored.rollout.completion_mask[~truncated])


def test_an_update_that_is_not_finite_is_skipped_then_stops_the_run():
    module = build(max_skipped_updates=2, steps=3)
    before = [p.detach().clone() for p in module.policy.parameters()]
    annotate = module.annotate

    def poisoned(scored, groups):
        experience = annotate(scored, groups)
        experience.advantages[0] = math.nan
        return experience

    module.annotate = poisoned
    seen = []
    with pytest.raises(TrainingDivergedError, match="2 updates in a row"):
        train(module, [prompts()] * 3, lambda module: seen.append(module.metrics["updates_skipped"]))
    assert seen == [1.0]
    assert all(torch.equal(a, b) for a, b in zip(before, module.policy.parameters(), strict=True))
    assert all(torch.isfinite(p).all() for p in module.policy.parameters())


def test_means_add_up_over_micro_batches():
    means = Means()
    means.add({"kl": (torch.tensor(2.0), torch.tensor(4.0)), "lr": (0.1, 1.0)})
    means.add({"kl": (torch.tensor(1.0), torch.tensor(2.0)), "lr": (0.3, 1.0)})
    assert means.read() == pytest.approx({"kl": 0.5, "lr": 0.2})


def test_gradient_checkpointing_recomputes_and_changes_nothing():
    def trained(checkpointing: bool) -> tuple[list[torch.Tensor], int]:
        module = build()
        if checkpointing:
            module.policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        calls = Counter()
        with_gradient = module.policy.model.layers[0].mlp.register_forward_pre_hook(
            lambda *_: calls.update(forward=int(torch.is_grad_enabled()))
        )
        train(module, [prompts()])
        with_gradient.remove()
        return [parameter.detach().clone() for parameter in module.policy.parameters()], calls["forward"]

    plain, once = trained(False)
    checkpointed, twice = trained(True)
    assert twice == 2 * once > 0
    for a, b in zip(plain, checkpointed, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
