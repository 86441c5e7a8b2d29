"""The sampler that a run's settings name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from r1lit.distributed.ranks import ALONE, Ranks
from r1lit.rollout.sampler import Sampler
from r1lit.rollout.settings import RolloutSettings
from r1lit.rollout.transformers_sampler import TransformersSampler
from r1lit.rollout.vllm_engine import LocalEngine, engine_problem
from r1lit.rollout.vllm_sampler import VLLMSampler
from r1lit.rollout.vllm_server import RemoteEngine
from r1lit.settings import ConfigError

Maker = Callable[[RolloutSettings, PreTrainedModel, PreTrainedTokenizerBase, torch.dtype, Ranks], Sampler]


def build_sampler(
    settings: RolloutSettings,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    arithmetic: torch.dtype,
    ranks: Ranks = ALONE,
) -> Sampler:
    """A sampler that holds the policy's weights.

    Args:
        settings: which, and what it may use.
        policy: what it samples from, on the device where it is trained.
        tokenizer: the policy's.
        arithmetic: in which the policy computes while it is trained.
        ranks: the processes of the run; all are to build theirs together.

    Raises:
        ConfigError: where the sampler is not installed, or refuses the model.
        UserError: where a server does not answer, or does not hold the policy's weights.
    """
    return SAMPLERS[settings.kind](settings, policy, tokenizer, arithmetic, ranks)


def require_sampler(settings: RolloutSettings) -> None:
    """Refuse a sampler that cannot run here, before anything is loaded.

    Raises:
        ConfigError: saying what is missing.
    """
    if settings.kind == "vllm" and (problem := engine_problem()):
        raise ConfigError([problem])


def _transformers(
    settings: RolloutSettings,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    arithmetic: torch.dtype,
    ranks: Ranks,
) -> Sampler:
    try:
        return TransformersSampler(policy, tokenizer, settings.max_batch_rows, settings.decode)
    except ValueError as error:
        raise ConfigError([str(error)]) from error


def _vllm(
    settings: RolloutSettings,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    arithmetic: torch.dtype,
    ranks: Ranks,
) -> Sampler:
    chosen = settings.engine.dtype
    dtype = arithmetic if chosen == "auto" else getattr(torch, chosen)
    engine = LocalEngine(policy, settings.engine, settings.max_batch_rows, dtype)
    return VLLMSampler(engine, policy, tokenizer, ranks)


def _vllm_server(
    settings: RolloutSettings,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    arithmetic: torch.dtype,
    ranks: Ranks,
) -> Sampler:
    return VLLMSampler(RemoteEngine(policy, settings.server, ranks), policy, tokenizer, ranks)


SAMPLERS: Mapping[str, Maker] = {"transformers": _transformers, "vllm": _vllm, "vllm_server": _vllm_server}
