"""Sampling and scoring shared out among processes, so that each ends up with everyone's groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from r1lit.distributed.ranks import Ranks
from r1lit.distributed.sampling import Holding
from r1lit.modules.experience import concatenate
from r1lit.rewards.pool import RewardPool
from r1lit.rewards.sharded import ShardedReward
from r1lit.rollout.sampler import OnGroup, Sampler
from r1lit.types import Group, Prompt, Rollout, Sampling, Scored


class SharedSampler:
    """Draws this process's part of the groups: those of some prompts that stand side by side.

    What it gives is a part of the rollout; `SharedRewards` makes it whole. A process may have no part.

    Args:
        sampler: draws them.
        ranks: all processes are to sample together.
        holding: makes the context in which they can (`r1lit.distributed.sampling`).
        device: where the tensors are.
    """

    def __init__(self, sampler: Sampler, ranks: Ranks, holding: Holding, device: torch.device):
        self.sampler, self.ranks, self.holding, self.device = sampler, ranks, holding, device
        self.exact_logprobs = sampler.exact_logprobs
        self.description = f"{sampler.description}, in {ranks.size} processes"
        self.asked: Sequence[Prompt] = ()
        """The prompts of the last rollout, those of all processes."""

    def apart(self) -> SharedSampler:
        return SharedSampler(self.sampler.apart(), self.ranks, self.holding, self.device)

    def load_weights(self, policy: nn.Module) -> None:
        self.sampler.load_weights(policy)

    def generate(
        self,
        prompts: Sequence[Prompt],
        group_size: int,
        sampling: Sampling,
        *,
        seed: int,
        on_group: OnGroup | None = None,
    ) -> Rollout:
        """This process's part; groups are numbered from its first."""
        self.asked = prompts
        part = self.ranks.part(len(prompts))
        own = prompts[part]
        with self.holding():
            if not own:
                return _nothing(sampling, self.device)
            return self.sampler.generate(
                own, group_size, sampling, seed=seed, on_group=on_group, before=part.start, of=len(prompts)
            )


class SharedRewards:
    """Has each process's part of the groups judged by rewards of its own, and gives the whole table to all.

    Args:
        rewards: of this process.
        sampler: knows the prompts of all.
        ranks: all processes are to gather together.
        sharded: further rewards, which all processes compute together.
    """

    def __init__(
        self, rewards: RewardPool, sampler: SharedSampler, ranks: Ranks, sharded: Sequence[ShardedReward] = ()
    ):
        self.pool, self.sampler, self.ranks, self.sharded = rewards, sampler, ranks, sharded
        self.rewards = rewards.rewards | {reward.name: reward.settings for reward in sharded}

    def submit(self, index: int, group: Group) -> None:
        self.pool.submit(index, group)

    def gather(self, rollout: Rollout, progress: float = 1.0) -> Scored:
        """Everyone's groups, in the order of the prompts.

        Raises:
            RewardError: where a reward failed on more of this process's rows than its settings allow.
        """
        scored = self.pool.gather(rollout, progress) if rollout.groups else None
        for reward in self.sharded:
            scored = reward.add(scored, rollout, progress)
        own = None if scored is None else _Part.of(scored)
        parts = [part for part in self.ranks.gather(own) if part is not None]
        prompts = iter(self.sampler.asked)
        return concatenate([part.scored(prompts, rollout) for part in parts])


@dataclass(frozen=True)
class _Part:
    """What one process tells the others: its groups without their prompts, which all have, and tensors on the host."""

    groups: list[tuple[list[list[int]], list[str], list[bool]]]
    tensors: dict[str, Tensor]
    table: dict[str, Any]

    @classmethod
    def of(cls, scored: Scored) -> _Part:
        rollout = scored.rollout
        return cls(
            groups=[(group.completion_ids, group.completions, group.truncated) for group in rollout.groups],
            tensors={name: getattr(rollout, name).cpu() for name in ("completion_ids", "completion_mask", "logprobs")},
            table={name: value for name, value in vars(scored).items() if name != "rollout"},
        )

    def scored(self, prompts: Any, own: Rollout) -> Scored:
        device = own.completion_ids.device
        groups = tuple(Group(next(prompts), *said) for said in self.groups)
        tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        return Scored(rollout=replace(own, groups=groups, **tensors), **self.table)


def _nothing(sampling: Sampling, device: torch.device) -> Rollout:
    empty = torch.zeros(0, 0, device=device)
    return Rollout((), empty.long(), empty.bool(), empty, sampling)
