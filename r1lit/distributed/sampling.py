"""Sampling from a sharded model: the processes decode different texts, and end at different times."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import nn

from r1lit.distributed.plan import computing_device, is_sharded, sharded_modules
from r1lit.distributed.ranks import Ranks
from r1lit.models.lora import trained_parameters

ASK_EVERY = 8
"""Passes between two questions whether anyone is still decoding: asking waits for the slowest."""

SHARE_OF_MEMORY = 0.5
"""A model is gathered whole where that takes at most this share of the memory that is left; the cache takes more."""

STATES = 4
"""Shards that are still to come of what is trained: gradients, two moments, the reference."""

Holding = Callable[[], AbstractContextManager[None]]


def holding(model: nn.Module, ranks: Ranks, whole: bool) -> Holding:
    """What makes a context in which the processes can sample from a model, each as long as it takes.

    Args:
        model: any; only a sharded one is held in a way of its own.
        ranks: all processes are to enter together.
        whole: gather the model once; else each pass gathers its layers one by one.
    """
    if not is_sharded(model):
        return nullcontext
    return partial(_whole, model) if whole else partial(_in_step, model, ranks)


def fits(model: nn.Module, ranks: Ranks, local_size: int) -> bool:
    """True where every process has room for the whole model.

    Args:
        model: sharded, on its device.
        ranks: asks all of them.
        local_size: processes that share the host's memory.
    """
    whole = _bytes(model.parameters())
    device = computing_device(model)
    if device.type == "cuda":
        free = torch.cuda.mem_get_info()[0]
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // local_size
    room = SHARE_OF_MEMORY * (free - STATES * _bytes(trained_parameters(model)) / ranks.size)
    return ranks.largest(int(whole > room)) == 0


def _bytes(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


@contextmanager
def _whole(model: nn.Module) -> Iterator[None]:
    """Gather all shards; inside, no pass through the model is one of all processes."""
    modules = sharded_modules(model)
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
    try:
        # What a pass gathers it now keeps.
        _pass(model)
        yield
    finally:
        for module in modules:
            module.set_reshard_after_forward(True, recurse=False)
            module.reshard()


@contextmanager
def _in_step(model: nn.Module, ranks: Ranks, every: int = ASK_EVERY) -> Iterator[None]:
    """Inside, every pass gathers the layers with everyone's help; whoever is done helps on until all are.

    Before every ``every``-th pass each process says whether it still decodes. So all make the same number of passes,
    and none is left waiting.
    """
    pace = _Pace(ranks, every)
    # Before the model's own hook, which gathers: everyone asks first and gathers then.
    handle = model.register_forward_pre_hook(lambda *_: pace.before_own_pass(), prepend=True)
    try:
        yield
        handle.remove()
        while pace.someone_decodes():
            _pass(model)
    finally:
        handle.remove()


class _Pace:
    """Counts passes, and asks in time."""

    def __init__(self, ranks: Ranks, every: int):
        self._ranks, self._every, self._passes = ranks, every, 0

    def before_own_pass(self) -> None:
        if self._passes % self._every == 0:
            self._ranks.largest(1)
        self._passes += 1

    def someone_decodes(self) -> bool:
        """To be asked before each pass of one that is done itself."""
        go_on = self._passes % self._every != 0 or self._ranks.largest(0) == 1
        self._passes += 1
        return go_on


@torch.no_grad()
def _pass(model: nn.Module) -> None:
    """The smallest pass through a model, for what it gathers."""
    model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=computing_device(model)), use_cache=False)
