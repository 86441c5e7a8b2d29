"""AdamW and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from r1lit.modules.settings import OptimizerSettings


def rate(settings: OptimizerSettings, updates: int) -> Callable[[int], float]:
    """The learning rate's multiplier as a function of the update, for a run of ``updates`` updates.

    >>> shape = rate(OptimizerSettings(warmup_steps=2, schedule="linear", min_lr_ratio=0.5), updates=6)
    >>> [shape(update) for update in range(7)]
    [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5]
    """
    decays: dict[str, Callable[[float], float]] = {
        "constant": lambda progress: 1.0,
        "linear": lambda progress: 1.0 - progress,
        "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
    }
    floor = 1.0 if settings.schedule == "constant" else settings.min_lr_ratio

    def multiplier(update: int) -> float:
        if update < settings.warmup_steps:
            return (update + 1) / settings.warmup_steps
        progress = min((update - settings.warmup_steps) / max(updates - settings.warmup_steps, 1), 1.0)
        return floor + (1.0 - floor) * decays[settings.schedule](progress)

    return multiplier


def build_optimizer(
    model: nn.Module, settings: OptimizerSettings, updates: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW over the trainable parameters, and its schedule, to be stepped once an update."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        fused=True,
    )
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rate(settings, updates))


def apply_settings(
    optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LambdaLR, settings: OptimizerSettings
) -> None:
    """Put the settings into an optimiser and its schedule whose state was loaded from a checkpoint."""
    schedule.base_lrs = [settings.lr for _ in optimizer.param_groups]
    for group, shape in zip(optimizer.param_groups, schedule.lr_lambdas, strict=True):
        matrices = group["params"][0].ndim >= 2
        group |= {
            "initial_lr": settings.lr,
            "lr": settings.lr * shape(schedule.last_epoch),
            "betas": settings.betas,
            "eps": settings.eps,
            "weight_decay": settings.weight_decay if matrices else 0.0,
        }
