"""What a training step costs in arithmetic, so that ways of training can be compared at equal compute."""

from __future__ import annotations

from torch import nn

from r1lit.models.lora import parameter_counts


def training_flops(model: nn.Module, forward_tokens: int, backward_tokens: int) -> float:
    """Floating-point operations: 2 a parameter and token forward, 4 more backward (Kaplan et al., arXiv 2001.08361); 2
    of these where the parameter is frozen, and gradients pass it by.

    Attention over the context is not counted, nor what activation checkpointing computes twice.

    >>> training_flops(nn.Linear(3, 2, bias=False), forward_tokens=10, backward_tokens=5)
    240.0
    """
    trained, parameters = parameter_counts(model)
    return float(parameters * 2 * (forward_tokens + backward_tokens) + trained * 2 * backward_tokens)
