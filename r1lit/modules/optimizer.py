"""AdamW and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from r1lit.modules.low_bit import adamw_8bit
from r1lit.modules.settings import OptimizerSettings
from r1lit.settings import ConfigError


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


def _adamw(groups: list[dict[str, Any]], **options: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, fused=True, **options)


def _adamw_8bit(groups: list[dict[str, Any]], **options: Any) -> torch.optim.Optimizer:
    return adamw_8bit()(groups, **options)


KINDS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adamw": _adamw, "adamw_8bit": _adamw_8bit}

ROUNDED = {"adamw": (torch.bfloat16, torch.float16), "adamw_8bit": (torch.float16,)}
"""Weights by kind that lose what is less than half their last digit: at R1's learning rate, nearly every update."""


def build_optimizer(
    model: nn.Module, settings: OptimizerSettings, updates: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """The optimiser of the trainable parameters, and its schedule, to be stepped once an update.

    Raises:
        ConfigError: where the parameters are too coarse for the updates they would get.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    _require_fine_weights(settings.kind, (parameter.dtype for parameter in trainable))
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay, "kind": settings.kind},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0, "kind": settings.kind},
    ]
    optimizer = KINDS[settings.kind](
        [group for group in groups if group["params"]],
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
    )
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rate(settings, updates))


def _require_fine_weights(kind: str, dtypes: Iterable[torch.dtype]) -> None:
    coarse = sorted({str(dtype).removeprefix("torch.") for dtype in dtypes if dtype in ROUNDED[kind]})
    if coarse:
        raise ConfigError([lossy_problem(f"optimizer.kind={kind} with weights in {', '.join(coarse)}")])


def lossy_problem(what: str) -> str:
    """That updates would be rounded away, and what to do instead."""
    return (
        f"{what}: an update of less than about 1/512 of a weight would be rounded away, which is nearly every one; set "
        "model.dtype=float32 and trainer.precision=bf16-mixed, or bfloat16 weights with optimizer.kind=adamw_8bit, "
        "which rounds at random"
    )


def other_kind_problem(asked: str, saved: str) -> str:
    """That an optimiser cannot go on from another's state, and what to do instead."""
    return (
        f"optimizer.kind={asked}, but the checkpoint holds the state of {saved}; set optimizer.kind={saved} to go on, "
        "or start a new run from the run's model"
    )


def apply_settings(
    optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LambdaLR, settings: OptimizerSettings
) -> None:
    """Put the settings into an optimiser and its schedule whose state was loaded from a checkpoint.

    Raises:
        ConfigError: where the checkpoint holds another kind of state.
    """
    schedule.base_lrs = [settings.lr for _ in optimizer.param_groups]
    for group, shape in zip(optimizer.param_groups, schedule.lr_lambdas, strict=True):
        saved = group.get("kind", "adamw")
        if saved != settings.kind:
            raise ConfigError([other_kind_problem(settings.kind, saved)])
        matrices, lr = group["params"][0].ndim >= 2, settings.lr * shape(schedule.last_epoch)
        group |= {
            "initial_lr": settings.lr,
            # torchao's optimiser holds it as a tensor.
            "lr": group["lr"].fill_(lr) if isinstance(group["lr"], torch.Tensor) else lr,
            "betas": settings.betas,
            "eps": settings.eps,
            "weight_decay": settings.weight_decay if matrices else 0.0,
        }
