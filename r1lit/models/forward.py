"""Code that uses a model's parts, run as if it were the model's forward."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from torch import nn

FORWARD = "run_as_forward"
"""The method that a sharded model has to run a function between the hooks of its forward."""

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", bound=nn.Module)


def inside_forward(function: Callable[Concatenate[M, P], R]) -> Callable[Concatenate[M, P], R]:
    """Let a function of a model call the model's parts and use their weights, however the model is held.

    Outside of its forward a sharded model's embedding, last norm and head are shards; such a model has a method
    `FORWARD` that gathers them (`r1lit.distributed.plan`). It makes no difference to any other model.
    """

    @wraps(function)
    def run(model: M, *args: P.args, **kwargs: P.kwargs) -> R:
        entered = getattr(model, FORWARD, None)
        return function(model, *args, **kwargs) if entered is None else entered(function, *args, **kwargs)

    return run
