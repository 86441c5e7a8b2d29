"""The values that travel from prompt to weight update.

Letters in every shape of r1lit: B prompts, G completions a prompt (the group size), N = B x G rows (prompt-major: row
``b * G + g``), T completion tokens, L tokens of prompt and completion together, R rewards, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Prompt:
    """One question, ready for the model.

    Attributes:
        ids: the token ids the model is given, template included; never empty.
        raw: what the dataset held: the question's text, or a list of chat messages. Rewards see this as ``prompts``.
        columns: every column of the dataset's row (``answer``, ``task``, ...), handed to the rewards by name.
        prefill: the tail of the prompt that belongs to the answer (a chat template that opens ``<think>`` itself);
            it is put before the completion's text, so that rewards always judge the whole answer.
        origin: where the row came from, ``file:line``, for error messages.
    """

    ids: tuple[int, ...]
    raw: str | list[Message]
    columns: Mapping[str, Any] = field(default_factory=dict)
    prefill: str = ""
    origin: str = ""


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    Attributes:
        temperature: divides the logits; 0 is greedy.
        top_p: keep the smallest set of tokens whose probability reaches this, then renormalise.
        max_tokens: T, the most tokens a completion may have (EOS included).
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256

    @property
    def full_support(self) -> bool:
        """True where the sampled distribution is the policy's own at this temperature, nothing cut off."""
        return self.top_p >= 1.0 and self.temperature > 0


@dataclass(frozen=True)
class Group:
    """The G completions of one prompt: what rewards judge, and what is compared to make advantages.

    Attributes:
        prompt: the prompt they answer.
        completion_ids: G lists of token ids, EOS included where it was sampled.
        completions: G texts: the prompt's prefill and the decoded completion, without its closing EOS.
        truncated: G flags, True where the completion ran into ``max_tokens`` instead of ending at EOS.
    """

    prompt: Prompt
    completion_ids: list[list[int]]
    completions: list[str]
    truncated: list[bool]


@dataclass(frozen=True)
class Rollout:
    """What the policy said to B prompts: B groups of G completions, as text and as tensors.

    Attributes:
        groups: B groups.
        completion_ids: int64 [N, T], right-padded.
        completion_mask: bool [N, T], True = a sampled token (EOS included).
        logprobs: float32 [N, T], log-probability of each sampled token under the distribution it was drawn from
            (temperature and top-p applied); 0 at padding.
        sampling: how they were drawn.
    """

    groups: tuple[Group, ...]
    completion_ids: Tensor
    completion_mask: Tensor
    logprobs: Tensor
    sampling: Sampling

    @property
    def group_size(self) -> int:
        return len(self.groups[0].completions)

    @property
    def prompt_ids(self) -> list[tuple[int, ...]]:
        """N prompts' token ids, one a row."""
        return [group.prompt.ids for group in self.groups for _ in group.completions]

    @property
    def truncated(self) -> Tensor:
        """bool [N], True where the completion ran into its length limit."""
        return torch.tensor([flag for group in self.groups for flag in group.truncated], dtype=torch.bool)

    @property
    def lengths(self) -> Tensor:
        """int64 [N], tokens of each completion."""
        return self.completion_mask.sum(-1)


@dataclass(frozen=True)
class Scored:
    """A rollout with what each reward gave it.

    Attributes:
        rollout: the rollout.
        names: R reward names.
        weights: float32 [R]; a reward of weight 0 is a metric only.
        columns: float32 [N, R], NaN where a reward did not apply or failed: left out of the row's sum and of the
            group's baseline.
        failures: for each reward, how many rows failed for which reason (``exception``, ``timeout``, ``crash``, ...).
    """

    rollout: Rollout
    names: tuple[str, ...]
    weights: Tensor
    columns: Tensor
    failures: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def totals(self) -> Tensor:
        """float32 [N], the weighted sum of the rewards each row has."""
        return (torch.nan_to_num(self.columns) * self.weights).sum(-1)

    def column(self, name: str) -> Tensor:
        """float32 [N], one reward's values, NaN where it gave none."""
        return self.columns[:, self.names.index(name)]


@dataclass(frozen=True)
class Trajectory:
    """A prompt with one completion, on the CPU.

    Attributes:
        ids: int64 [L], the prompt's and the completion's.
        trained: bool [L], True = a completion token.
    """

    ids: Tensor
    trained: Tensor


@dataclass(frozen=True)
class Minibatch:
    """n rows of one policy update.

    Attributes:
        trajectories: n of them.
        completion_mask: bool [n, T], True = a completion token.
        advantages: float32 [n].
        weights: float32 [n, T], each token's share of the loss; the loss is ``(weights * per_token_loss).sum()``.
        old_logprobs: float32 [n, T] under the policy that sampled, or None where the update is on-policy.
        ref_logprobs: float32 [n, T] under the reference, or None without KL.
    """

    trajectories: tuple[Trajectory, ...]
    completion_mask: Tensor
    advantages: Tensor
    weights: Tensor
    old_logprobs: Tensor | None = None
    ref_logprobs: Tensor | None = None
