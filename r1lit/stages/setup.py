"""What every stage needs, made from a run's settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from r1lit.data.prompts import Check, LoadedPrompts, load_measured, load_prompts, measured_keys
from r1lit.distributed.launch import alone, launched
from r1lit.distributed.plan import Sharding, is_sharded, prove_head
from r1lit.distributed.ranks import ALONE, Ranks
from r1lit.distributed.sampling import fits, holding
from r1lit.models.attention import settle_attention
from r1lit.models.loading import ModelSettings, load_policy
from r1lit.modules.sharing import SharedRewards, SharedSampler
from r1lit.rewards.code_tests import suite_problem
from r1lit.rewards.gold import gold_problem
from r1lit.rewards.neural_rules import neural_problem
from r1lit.rewards.pool import RewardPool
from r1lit.rewards.sharded import ShardedReward
from r1lit.rewards.spec import RewardSettings
from r1lit.rewards.targets import plugin_paths
from r1lit.rollout.build import build_sampler, require_sampler
from r1lit.rollout.sampler import Sampler
from r1lit.settings import ConfigError
from r1lit.stages.run import Run

M = TypeVar("M", bound=PreTrainedModel)

TRAINS_ON_PROMPTS = frozenset({"fit", "preflight"})
"""Stages whose prompts are more than what they are measured on."""

SAMPLES = TRAINS_ON_PROMPTS | {"collect", "reject"}
"""Stages that sample answers to the training prompts."""

COMPARED: Mapping[str, Check] = {
    "r1lit.rewards.accuracy.accuracy": gold_problem,
    "r1lit.rewards.code.Code": suite_problem,
}
"""Rewards by target, and what says whether a row has what they compare with."""


@dataclass(frozen=True)
class Workbench:
    """A model, its tokenizer, prompts for it, a sampler on it, and the processes that score what it says."""

    policy: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompts: LoadedPrompts
    sampler: Sampler
    rewards: RewardPool | SharedRewards
    ranks: Ranks = ALONE
    gathered: bool | None = None
    """Whether a sharded policy is gathered whole to sample from it, or layer by layer; None, where it is no shards."""


def device_of(accelerator: str) -> torch.device:
    """The device that ``trainer.accelerator`` names; ``read`` has refused a GPU that is not there."""
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def precision_of(run: Run) -> str:
    """Lightning's name of the arithmetic that a run trains in."""
    on_gpu = device_of(run.trainer.accelerator).type == "cuda"
    return run.trainer.precision if run.trainer.precision != "auto" else "bf16-mixed" if on_gpu else "32-true"


def arithmetic(run: Run) -> torch.autocast:
    """A context in which the model computes as it does while it is trained."""
    device = device_of(run.trainer.accelerator)
    return torch.autocast(device.type, torch.bfloat16, enabled=precision_of(run) == "bf16-mixed")


def dtype_of(run: Run, policy: PreTrainedModel) -> torch.dtype:
    """What a model computes in while it is trained."""
    return torch.bfloat16 if precision_of(run).startswith("bf16") else policy.dtype


def ranks_of(run: Run) -> Ranks:
    """The processes of a run."""
    launch = launched()
    return Ranks(launch.rank, launch.size, lockstep=run.trainer.strategy == "fsdp")


def placed(run: Run, model: M) -> M:
    """The model where and how it is trained: on the device, in shards where the run asks for them.

    Raises:
        ConfigError: where it cannot be sharded, or for an attention that cannot run.
    """
    if run.trainer.strategy != "fsdp":
        settle(run, model)
        return model
    alone()
    launch, device = launched(), device_of(run.trainer.accelerator)
    try:
        # Not put on the device before: whole it may not fit there.
        with arithmetic(run):
            settle_attention(model, run.model.attention, device)
        sharding = Sharding.of(device.type, launch.size, run.trainer.replicas_of(launch), run.trainer.cpu_offload)
        prove_head(sharding.apply(model))
        return model
    except ValueError as error:
        raise ConfigError([str(error)]) from error


def reward_pool(run: Run) -> RewardPool:
    """The processes that score, able to import drop-in rewards."""
    rewards = {name: settings for name, settings in run.rewards.items() if not settings.sharded}
    return RewardPool(rewards, workers=run.command.workers, plugin_paths=plugin_paths())


def sharded_rewards(run: Run) -> list[ShardedReward]:
    """The rewards that are held in shards as the policy is.

    Raises:
        ConfigError: with the reason, where one cannot be loaded.
    """
    asked = {name: settings for name, settings in run.rewards.items() if settings.sharded}
    try:
        return [ShardedReward(name, settings, ranks_of(run), partial(placed, run)) for name, settings in asked.items()]
    except (TypeError, ValueError) as error:
        raise ConfigError([f"reward of sharded=true: {error}"]) from error


def load_model(settings: ModelSettings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model and its tokenizer.

    Raises:
        ConfigError: with the reason, where that cannot be done.
    """
    try:
        return load_policy(settings)
    except (OSError, ValueError) as error:
        raise ConfigError([str(error)]) from error


def settle(run: Run, model: PreTrainedModel) -> None:
    """Put a model on the run's device, with the attention that it will compute with there.

    Raises:
        ConfigError: for an attention that cannot run.
    """
    device = device_of(run.trainer.accelerator)
    model.to(device)
    try:
        with arithmetic(run):
            settle_attention(model, run.model.attention, device)
    except ValueError as error:
        raise ConfigError([str(error)]) from error


@contextmanager
def workbench(run: Run, loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None) -> Iterator[Workbench]:
    """Start the reward processes, load the prompts, and the model where it is not ``loaded``; close the processes at
    the end."""
    require_sampler(run.rollout)
    with reward_pool(run) as rewards:
        policy, tokenizer = loaded or load_model(run.model)
        policy = policy if loaded else placed(run, policy)
        prompts = _prompts(run, tokenizer)
        _check_held_out(run, prompts)
        _check_lengths(run, prompts, getattr(policy.config, "max_position_embeddings", None), "the model's")
        _check_neural(run, prompts)
        sampler = build_sampler(run.rollout, policy, tokenizer, dtype_of(run, policy), ranks_of(run))
        _check_lengths(run, prompts, getattr(sampler, "room", None), "the engine's")
        yield _shared(run, Workbench(policy, tokenizer, prompts, sampler, rewards, ranks_of(run)))


def _shared(run: Run, bench: Workbench) -> Workbench:
    """The workbench with sampling and scoring shared out among the run's processes, where there are several."""
    ranks, asked = bench.ranks, run.trainer.gather_for_sampling
    if ranks.size == 1 and not ranks.lockstep:
        return bench
    # An engine samples from weights of its own.
    gathers = is_sharded(bench.policy) and run.rollout.kind == "transformers"
    if gathers and asked == "auto":
        asked = fits(bench.policy, ranks, launched().local_size)
    held = holding(bench.policy, ranks, whole=bool(asked)) if gathers else None
    sampler = SharedSampler(bench.sampler, ranks, device_of(run.trainer.accelerator), held)
    gathered = bool(asked) if gathers else None
    rewards = SharedRewards(bench.rewards, sharded_rewards(run))
    return replace(bench, sampler=sampler, rewards=rewards, gathered=gathered)


def _prompts(run: Run, tokenizer: PreTrainedTokenizerBase) -> LoadedPrompts:
    measured = run.evaluation.sources if run.evaluates else {}
    longest = run.evaluation.max_prompt_tokens
    if measured and run.command.stage not in TRAINS_ON_PROMPTS:
        return load_measured(run.data, tokenizer, _checks(run), measured, longest)
    # What later steps are measured on is not learnt here either, measured now or not.
    held = frozenset() if measured else measured_keys(run.data, run.evaluation.sources)
    return load_prompts(run.data, tokenizer, _checks(run), measured, longest, held)


def _checks(run: Run) -> Sequence[Check]:
    """What a row must pass beside being a prompt: what its rewards compare with can be read."""
    return [
        partial(_problem, settings, COMPARED[settings.dotted_path])
        for settings in run.rewards.values()
        if settings.dotted_path in COMPARED
    ]


def _problem(settings: RewardSettings, compared: Check, columns: Mapping[str, Any]) -> str | None:
    return compared(columns) if settings.applies(columns) else None


def _check_held_out(run: Run, prompts: LoadedPrompts) -> None:
    if run.evaluates and not prompts.validation:
        raise ConfigError(
            [
                f"of {len(prompts.train)} prompts none could be held out to evaluate on; add prompts, set "
                "data.validation_path, or set evaluation.enabled=false evaluation.every=0"
            ]
        )


def _check_neural(run: Run, prompts: LoadedPrompts) -> None:
    """A model must not judge what a rule can, unless it is asked for by name."""
    found = (neural_problem(run.rewards, prompt.columns) for prompt in prompts.train)
    if problems := dict.fromkeys(filter(None, found)):
        raise ConfigError(problems)


def _check_lengths(run: Run, prompts: LoadedPrompts, positions: int | None, whose: str) -> None:
    measured = "evaluation" if run.evaluation.sources else "data"
    used = []
    if run.command.stage in SAMPLES:
        used.append(("rollout.max_tokens", run.rollout.max_tokens, prompts.train, "data"))
    if run.evaluates:
        used.append(("evaluation.max_tokens", run.evaluation.max_tokens, prompts.validation, measured))
    problems = []
    for name, tokens, asked, section in used:
        prompt = max(len(prompt.ids) for prompt in asked)
        if positions and prompt + tokens > positions:
            problems.append(
                f"{name}={tokens} beside the longest prompt of {prompt} tokens is more than {whose} {positions} "
                f"positions; set {name}={positions - prompt} or less, or lower {section}.max_prompt_tokens"
            )
    if problems:
        raise ConfigError(problems)
