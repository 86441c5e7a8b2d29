"""Sampling and scoring shared out among processes, so that each ends up with everyone's groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from r1lit.distributed.failing import all_or_none, failure, require_all
from r1lit.distributed.ranks import ALONE, Ranks
from r1lit.distributed.sampling import Holding
from r1lit.modules.experience import concatenate
from r1lit.rewards.judge import Verdict
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
        device: where the tensors are.
        holding: makes the context in which they can (`r1lit.distributed.sampling`), where one draws with the others'
            help.
    """

    def __init__(self, sampler: Sampler, ranks: Ranks, device: torch.device, holding: Holding | None = None):
        self.sampler, self.ranks, self.device, self.holding = sampler, ranks, device, holding
        self.exact_logprobs, self.in_step = sampler.exact_logprobs, sampler.in_step
        self.description = sampler.description + (f", in {ranks.size} processes" if ranks.size > 1 else "")

    def apart(self) -> SharedSampler:
        """One that holds weights of its own and whose rollouts are made whole beside whatever else the processes tell
        each other; all are to ask for it together.

        Raises:
            ValueError: where drawing takes the others' help, which are not at hand beside the training.
        """
        if self.holding is not None:
            raise ValueError("a sharded policy is sampled in step with its training; sample from a server instead")
        return SharedSampler(self.sampler.apart(), self.ranks.apart(), self.device)

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
        part = self.ranks.part(len(prompts))
        own = prompts[part]
        # With others' help there is no telling from within; else it is heard of before rewards are judged in step.
        with all_or_none(self.ranks) if self.holding is None else self.holding():
            rollout = _nothing(sampling, self.device)
            if own:
                rollout = self.sampler.generate(
                    own, group_size, sampling, seed=seed, on_group=on_group, before=part.start, of=len(prompts)
                )
        return PartRollout(**vars(rollout), asked=prompts, ranks=self.ranks)


@dataclass(frozen=True)
class PartRollout(Rollout):
    """This process's part of a rollout.

    Attributes:
        asked: the prompts of all.
        ranks: among whom it is shared out.
    """

    asked: Sequence[Prompt] = ()
    ranks: Ranks = ALONE


class SharedRewards:
    """Has each process's part of the groups judged by rewards of its own, and gives the whole table to all.

    All processes are to gather together.

    Args:
        rewards: of this process.
        sharded: further rewards, which all processes compute together.
    """

    def __init__(self, rewards: RewardPool, sharded: Sequence[ShardedReward] = ()):
        self.pool, self.sharded = rewards, sharded
        self.rewards = rewards.rewards | {reward.name: reward.settings for reward in sharded}

    def submit(self, index: int, group: Group) -> None:
        self.pool.submit(index, group)

    def gather(self, rollout: PartRollout, progress: float = 1.0) -> Scored:
        """Everyone's groups, in the order of the prompts.

        Raises:
            RewardError: where a reward failed on more of this process's rows than its settings allow.
            PeerError: where another process failed at its part.
        """
        # All are in step here; what may fail in one alone comes after.
        verdicts = [reward.judge(rollout) for reward in self.sharded]
        with _telling(rollout.ranks):
            own = self._own(rollout, verdicts, progress) if rollout.groups else _Part()
        parts = rollout.ranks.gather(own)
        require_all([part.failure for part in parts])
        prompts = iter(rollout.asked)
        return concatenate([part.scored(prompts, rollout) for part in parts if part.groups])

    def _own(self, rollout: PartRollout, verdicts: Sequence[Verdict], progress: float) -> _Part:
        scored = self.pool.gather(rollout, progress)
        for reward, verdict in zip(self.sharded, verdicts, strict=True):
            scored = reward.add(scored, verdict, progress)
        return _Part.of(scored)


@contextmanager
def _telling(ranks: Ranks) -> Iterator[None]:
    """Where this process fails at its part, the others hear of it when they gather theirs."""
    try:
        yield
    except Exception as error:
        # Where the others have gone, there is nobody to tell.
        with suppress(RuntimeError):
            ranks.gather(_Part(failure=failure(error)))
        raise


@dataclass(frozen=True)
class _Part:
    """What one process tells the others: its groups without their prompts, which all have, and tensors on the host; or
    why there are none."""

    groups: list[tuple[list[list[int]], list[str], list[bool]]] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    table: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None

    @classmethod
    def of(cls, scored: Scored) -> _Part:
        rollout = scored.rollout
        return cls(
            groups=[(group.completion_ids, group.completions, group.truncated) for group in rollout.groups],
            tensors={name: getattr(rollout, name).cpu() for name in ("completion_ids", "completion_mask", "logprobs")},
            table={name: value for name, value in vars(scored).items() if name != "rollout"},
        )

    def scored(self, prompts: Iterator[Prompt], own: Rollout) -> Scored:
        device = own.completion_ids.device
        groups = tuple(Group(next(prompts), *said) for said in self.groups)
        tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        return Scored(rollout=Rollout(groups, **tensors, sampling=own.sampling), **self.table)


def _nothing(sampling: Sampling, device: torch.device) -> Rollout:
    empty = torch.zeros(0, 0, device=device)
    return Rollout((), empty.long(), empty.bool(), empty, sampling)
