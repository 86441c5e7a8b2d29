"""What a policy is held to by the KL: a frozen copy of it, or, where it has adapters, its own base with them off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from r1lit.models.loading import clone_frozen, copy_weights
from r1lit.models.lora import adapted, adapters_off, trained_parameters


class AdapterReference(nn.Module):
    """The reference of a policy with adapters, in the policy's own memory: the base without them, and once refreshed,
    the base with a frozen copy of what they were.

    Args:
        policy: newly adapted, so that its adapters change nothing yet.
    """

    def __init__(self, policy: PreTrainedModel):
        super().__init__()
        self.adapters = nn.ParameterList(
            nn.Parameter(parameter.detach().clone(), requires_grad=False) for parameter in trained_parameters(policy)
        )
        self.register_buffer("refreshed", torch.tensor(False))

    @contextmanager
    def applied(self, policy: PreTrainedModel) -> Iterator[None]:
        """Inside, the policy computes as the reference; for passes without gradients."""
        if not self.refreshed:
            with adapters_off(policy):
                yield
            return
        self._swap(policy)
        try:
            yield
        finally:
            self._swap(policy)

    @torch.no_grad()
    def refresh(self, policy: PreTrainedModel) -> None:
        """Keep the adapters as they are now."""
        for mine, its in zip(self.adapters, trained_parameters(policy), strict=True):
            mine.copy_(its)
        self.refreshed.fill_(True)

    @torch.no_grad()
    def _swap(self, policy: PreTrainedModel) -> None:
        """By value: what a sharded model gathers stays where it is."""
        for mine, its in zip(self.adapters, trained_parameters(policy), strict=True):
            kept = mine.clone()
            mine.copy_(its)
            its.copy_(kept)


def make_reference(
    policy: PreTrainedModel, copied: Callable[[PreTrainedModel], nn.Module] = clone_frozen
) -> nn.Module:
    """The policy as it is now, to be kept while it moves on: a copy, unless adapters are all that moves."""
    return AdapterReference(policy) if adapted(policy) else copied(policy)


@contextmanager
def reference_model(reference: nn.Module | None, policy: PreTrainedModel) -> Iterator[nn.Module | None]:
    """The model that computes as the reference does, inside; None without a reference."""
    if isinstance(reference, AdapterReference):
        with reference.applied(policy):
            yield policy
    else:
        yield reference


def refresh(reference: nn.Module, policy: PreTrainedModel) -> None:
    """Replace the reference by the policy."""
    if isinstance(reference, AdapterReference):
        reference.refresh(policy)
    else:
        copy_weights(policy, reference)
