"""What a training step costs in arithmetic, so that ways of training can be compared at equal compute."""

from __future__ import annotations

from torch import nn


def training_flops(model: nn.Module, forward_tokens: int, backward_tokens: int) -> float:
    """Floating-point operations: 2 a parameter and token forward, 4 more backward (Kaplan et al., arXiv 2001.08361).

    Attention over the context is not counted, nor what activation checkpointing computes twice.

    >>> training_flops(nn.Linear(3, 2, bias=False), forward_tokens=10, backward_tokens=5)
    240.0
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return float(parameters * (2 * forward_tokens + 4 * backward_tokens))
