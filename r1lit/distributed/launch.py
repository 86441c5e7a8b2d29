"""How the processes of a run were started, and how they come together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import Store

# torch takes seconds to load, and most commands run in one process: it is loaded where several come together.

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others. Completions of different lengths are sampled for different times; a process
that has died is noticed at once."""


@dataclass(frozen=True)
class Launch:
    """This process among those of the run.

    Attributes:
        rank, size: its number, and how many there are.
        local_rank, local_size: the same on its node.
        node: its node's number.
        by: what started them.
        restart: how many times they were started before.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    node: int = 0
    by: str = "the shell"
    restart: int = 0

    @property
    def first(self) -> bool:
        """True in the one process that writes files and speaks."""
        return self.rank == 0


def read_launch(environment: Mapping[str, str]) -> Launch:
    """What torchrun, or else ``srun``, has left in the environment.

    >>> step = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2"}
    >>> read_launch(step | {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"})
    Launch(rank=3, size=4, local_rank=1, local_size=2, node=1, by='srun', restart=0)
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
        restart = int(environment.get("TORCHELASTIC_RESTART_COUNT", "0"))
        return Launch(*(int(environment[name]) for name in names), by="torchrun", restart=restart)
    # A batch script has the job's variables too, but only srun gives a step of several tasks.
    size = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if size == 1 or "SLURM_PROCID" not in environment:
        return Launch()
    rank, local_rank, node = (int(environment[f"SLURM_{name}"]) for name in ("PROCID", "LOCALID", "NODEID"))
    return Launch(rank, size, local_rank, size // int(environment.get("SLURM_STEP_NUM_NODES", "1")), node, by="srun")


@cache
def launched() -> Launch:
    """How this process was started."""
    return read_launch(os.environ)


@cache
def join() -> Store | None:
    """Come together with the run's other processes, where there are any; gives what they can leave words for each other
    in."""
    launch = launched()
    if launch.size == 1:
        return None
    import torch
    from torch import distributed

    if launch.by == "srun":
        from lightning.fabric.plugins.environments import SLURMEnvironment

        slurm = SLURMEnvironment(auto_requeue=False)
        os.environ |= {"MASTER_ADDR": slurm.main_address, "MASTER_PORT": str(slurm.main_port)}
    store, rank, size = next(distributed.rendezvous("env://", launch.rank, launch.size))
    store = distributed.PrefixStore(f"r1lit/{launch.restart}", store)
    _initialize(store, rank, size)
    if torch.cuda.is_available() and launch.local_rank < torch.cuda.device_count():
        torch.cuda.set_device(launch.local_rank)
    return store


def alone() -> None:
    """Make a group of this one process, where it has none: a sharded model asks for a group."""
    from torch import distributed

    if not distributed.is_initialized():
        _initialize(distributed.HashStore(), 0, 1)


def leave() -> None:
    """Part from the others, once all is done."""
    if launched().size > 1:
        from torch import distributed

        distributed.destroy_process_group()


def first_to_say(text: str) -> bool:
    """True in one of the processes that are about to say the same, so that it is said once."""
    try:
        store = join()
        return store is None or store.add(f"said/{sha256(text.encode()).hexdigest()}", 1) == 1
    except RuntimeError:
        # Whoever kept the words has gone.
        return True


def _initialize(store: Store, rank: int, size: int) -> None:
    import torch
    from torch import distributed

    # Words and counts are exchanged on the host, gradients and weights where they are.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and distributed.is_nccl_available() else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
