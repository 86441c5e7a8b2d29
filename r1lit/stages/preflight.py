"""Can this model learn from these prompts? A look before the hours are spent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from r1lit.data.stream import PromptStream
from r1lit.distributed.launch import launched
from r1lit.functional import has_variance, pass_at_k
from r1lit.settings import UserError
from r1lit.stages.run import Run
from r1lit.stages.setup import Workbench, arithmetic


class NothingToLearnError(UserError):
    """Every group of completions got one reward, so every advantage is zero."""


@dataclass(frozen=True)
class Preflight:
    """The base model on a few training prompts.

    Attributes:
        prompts: how many were tried.
        group_size: completions of each.
        pass_1: share of completions that are right.
        pass_k: share of prompts with a right completion among the group.
        varied_groups: share of groups whose completions did not all get the same reward: the only ones that teach.
        truncated: share of completions that ran into the length limit.
        mean_reward: mean of the weighted sum of rewards.
        rewards: each reward's mean; None where it gave no verdict at all.
        metric: the reward that says what is right.
        varied_metric: share of groups of which some completions are right and some are not.
        shortest_prompt, longest_prompt: over all training prompts, in tokens.
        memory_gb: estimate for weights, gradients, optimiser, reference, cache and activations.
    """

    prompts: int
    group_size: int
    pass_1: float
    pass_k: float
    varied_groups: float
    truncated: float
    mean_reward: float
    rewards: Mapping[str, float | None]
    metric: str
    varied_metric: float
    shortest_prompt: int
    longest_prompt: int
    memory_gb: float

    def figures(self) -> dict[str, Any]:
        """As a plain dictionary, for ``summary.json``."""
        return asdict(self)


def preflight(run: Run, bench: Workbench) -> Preflight:
    """Sample a group for a few training prompts and see whether rewards tell completions apart."""
    count = min(run.preflight.prompts, len(bench.prompts.train))
    prompts = PromptStream(bench.prompts.sources, bench.prompts.weights, count, run.data.seed).batch(0)
    size = run.algorithm.group_size
    with arithmetic(run):
        rollout = bench.sampler.generate(
            prompts, size, run.rollout.sampling, seed=run.command.seed, on_group=bench.rewards.submit
        )
    # What is switched on later teaches nothing at the beginning.
    scored = bench.rewards.gather(rollout, progress=0.0)
    right = (scored.column(run.evaluation.metric) > 0.5).view(-1, size).sum(-1)
    lengths = [len(prompt.ids) for prompt in bench.prompts.train]
    return Preflight(
        prompts=len(prompts),
        group_size=size,
        pass_1=(right / size).mean().item(),
        pass_k=pass_at_k(size, right, size).mean().item(),
        varied_groups=has_variance(scored.columns, scored.weights, size).float().mean().item(),
        truncated=scored.rollout.truncated.float().mean().item(),
        mean_reward=scored.totals.mean().item(),
        rewards={name: _mean(scored.column(name)) for name in scored.names},
        metric=run.evaluation.metric,
        varied_metric=((right > 0) & (right < size)).float().mean().item(),
        shortest_prompt=min(lengths),
        longest_prompt=max(lengths),
        memory_gb=memory_estimate(run, bench, max(lengths)) / 1e9,
    )


def _mean(column: torch.Tensor) -> float | None:
    given = column[~torch.isnan(column)]
    return given.mean().item() if len(given) else None


def require_signal(found: Preflight, force: bool) -> None:
    """Stop a run that cannot learn, unless it is forced.

    Raises:
        NothingToLearnError: where no group has any variance.
    """
    if found.varied_groups > 0 or force:
        return
    means = ", ".join(
        f"{name} {'no verdict' if mean is None else f'{mean:.3g}'}" for name, mean in found.rewards.items()
    )
    raise NothingToLearnError(
        f"nothing to learn: in 0 of {found.prompts} groups of {found.group_size} did the completions get different "
        f"rewards (means: {means}; pass@1 {found.pass_1:.1%}, {found.truncated:.0%} truncated), and GRPO learns from "
        f"differences alone. {_advice(found)} To train all the same: force=true"
    )


def _advice(found: Preflight) -> str:
    if all(mean is None for mean in found.rewards.values()):
        return "No reward gave a verdict: look at their `when`, and try them with stage=try_reward."
    if found.varied_metric > 0:
        return (
            f"Right and wrong completions ({found.metric}) stand side by side, so it is the rewards that do not tell "
            f"them apart: mend them (stage=try_reward shows what they give), or give {found.metric} a weight."
        )
    if found.pass_1 == 1:
        return "Every completion was right: use harder prompts."
    return (
        "Use easier prompts, a stronger base (or a cold start by SFT), a larger algorithm.group_size, a longer "
        "rollout.max_tokens, or a reward with partial credit."
    )


def memory_estimate(run: Run, bench: Workbench, longest_prompt: int) -> float:
    """Bytes a training step needs, the larger of its two phases: sampling (cache) and updating (activations).

    In each process, where several share the work; a layer that is gathered from shards is not counted.
    """
    ranks, trainer = bench.ranks, run.trainer
    shards = ranks.size // trainer.replicas_of(launched()) if trainer.strategy == "fsdp" else 1
    config = bench.policy.config.get_text_config()
    parameters = sum(parameter.numel() for parameter in bench.policy.parameters())
    width = next(bench.policy.parameters()).element_size()
    weights = parameters * width * (5 if run.algorithm.kl_coef else 4) / shards
    tokens = longest_prompt + run.rollout.max_tokens
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rows = min(run.rollout.max_batch_rows, -(-run.algorithm.prompts_per_step // ranks.size) * run.algorithm.group_size)
    cache = 2 * config.num_hidden_layers * heads * head_width * rows * tokens * width
    kept = 2 if run.model.gradient_checkpointing else 16
    held = max(tokens, run.algorithm.micro_batch_tokens)
    activations = kept * config.num_hidden_layers * config.hidden_size * held * width
    head = 2 * 4 * config.vocab_size * min(held, 4096)
    return float(weights + max(cache, activations + head))
