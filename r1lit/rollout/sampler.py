"""What every sampler promises: prompts in, a rollout out, and new weights when the policy has moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import nn

from r1lit.types import Group, Prompt, Rollout, Sampling

OnGroup = Callable[[int, Group], None]
"""Called with a prompt's index and its finished group, while other groups may still be decoding."""


class Sampler(Protocol):
    """Draws completions from a policy.

    Attributes:
        exact_logprobs: True where the log-probs it returns are the trainer's own, computed by the same code from the
            same weights, so that no second forward pass is needed for the old policy's.
        in_step: True where `load_weights` is to be called by all of the run's processes together, while none samples.
        description: what samples where, for the run's output.
    """

    exact_logprobs: bool
    in_step: bool
    description: str

    def generate(
        self,
        prompts: Sequence[Prompt],
        group_size: int,
        sampling: Sampling,
        *,
        seed: int,
        on_group: OnGroup | None = None,
        before: int = 0,
        of: int | None = None,
    ) -> Rollout:
        """Draw ``group_size`` completions of each of the B prompts.

        The same seed, prompts and weights give the same tokens. Where the prompts are a part of ``of`` prompts and
        ``before`` of these stand before them, they are given the tokens that they would be given among all.
        ``on_group(b, group)`` is called exactly once a prompt, as soon as its last completion is finished.
        """
        ...

    def apart(self) -> Sampler:
        """A sampler like this one, or itself, that holds weights of its own, which stay when the policy moves."""
        ...

    def load_weights(self, policy: nn.Module) -> None:
        """Sample from ``policy``'s weights from now on."""
        ...


def require_drawable(
    prompts: Sequence[Prompt], group_size: int, sampling: Sampling, room: int | None, whose: str, remedy: str
) -> None:
    """Refuse what no sampler can draw; ``room`` is the positions that prompt and completion share, if they are bounded.

    Raises:
        ValueError: without prompts, completions or tokens to draw, or if a prompt leaves no room for them.
    """
    if not prompts:
        raise ValueError("0 prompts, but a rollout needs at least one; check the data's filters")
    if group_size < 1:
        raise ValueError(f"group_size={group_size}, but each prompt gets a completion; set it to 1 or more")
    if sampling.max_tokens < 1:
        raise ValueError(f"max_tokens={sampling.max_tokens}, but a completion has a token; set it to 1 or more")
    longest = max(prompts, key=lambda prompt: len(prompt.ids))
    if room and len(longest.ids) + sampling.max_tokens > room:
        raise ValueError(
            f"a prompt of {len(longest.ids)} tokens ({longest.origin or 'origin unknown'}) and max_tokens="
            f"{sampling.max_tokens} need more than {whose} {room} positions; {remedy}"
        )
