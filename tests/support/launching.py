"""The command in several processes, as torchrun starts it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

TORCHRUN = (sys.executable, "-m", "torch.distributed.run")

SHORT = (
    "trainer.accelerator=cpu",
    "trainer.checkpoint_every=1",
    "algorithm=grpo",
    "algorithm.prompts_per_step=4",
    "algorithm.group_size=4",
    "algorithm.minibatches=2",
    "rollout.max_tokens=16",
    "reward=[accuracy,format,overlong]",
    # Every length has a reward of its own, so there is something to learn.
    "reward.overlong.buffer=16",
    # Adam divides by what a gradient was, however small: with its usual epsilon it makes a rounding into a step.
    "optimizer.eps=1e-4",
    "data.limit=200",
    "preflight.enabled=false",
)
"""What a quick run is told, whoever runs it."""


def environment(**further: str) -> Mapping[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **further}


def together(*overrides: str, processes: int = 2) -> Sequence[str]:
    """The command on this machine."""
    return [*TORCHRUN, "--standalone", "--nproc-per-node", str(processes), "-m", "r1lit", *overrides]
