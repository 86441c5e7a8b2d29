"""What a profile says to try first: rules that state what they look at, their threshold, and the setting."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from r1lit.callbacks.hardware import Peak
from r1lit.callbacks.tracing import HOST, Trace
from r1lit.distributed.launch import launched
from r1lit.stages.run import Run
from r1lit.stages.setup import device_of


@dataclass(frozen=True)
class Profile:
    """What was found.

    Attributes:
        run: what was run.
        seconds: of a step, by phase, without the profiler; ``step`` is all of it.
        performance: figures of these steps, see `r1lit.stages.performance.performance`.
        trace: of other steps, under the profiler.
        peak: of the device, or all devices together.
        of_ranks: seconds of a step by phase, of each process of the run.
        beside: seconds, by phase, of what goes on beside a step in another thread; they are in no sum.
    """

    run: Run
    seconds: Mapping[str, float]
    performance: Mapping[str, float]
    trace: Trace
    peak: Peak
    of_ranks: Sequence[Mapping[str, float]] = ()
    beside: Mapping[str, float] = field(default_factory=dict)

    def share(self, phase: str) -> float:
        """Of a step's seconds."""
        return self.seconds.get(phase, 0.0) / self.seconds["step"]

    def kind_share(self, kind: str) -> float:
        """Of the traced time."""
        return self.trace.kinds.get(kind, 0.0) / sum(self.trace.by_phase.values())

    def top(self, count: int) -> list[tuple[str, tuple[int, float]]]:
        """The operators with the most time of their own: name, calls, seconds."""
        return sorted(self.trace.operators.items(), key=lambda item: -item[1][1])[:count]


def advice(found: Profile) -> list[str]:
    """What each rule that holds says; a line for none."""
    return [line for rule in RULES if (line := rule(found))] or ["Nothing stands out by the rules of this page."]


def _rewards(found: Profile) -> str | None:
    share = found.share("score")
    if share > 0.1:
        return (
            f"{share:.0%} of a step waits for rewards that sampling did not hide (above 10%): more processes, "
            f"workers={found.run.command.workers * 2}, or faster rewards."
        )
    return None


def _sampling(found: Profile) -> str | None:
    share, rows = found.share("sample") + found.share("wait"), found.run.rollout.max_batch_rows
    wanted = found.run.algorithm.prompts_per_step * found.run.algorithm.group_size
    if share > 0.4 and rows < wanted:
        return (
            f"Sampling takes {share:.0%} of a step (above 40%) and decodes {rows} of its {wanted} completions at a "
            f"time, reading all weights for each token of them: rollout.max_batch_rows={min(2 * rows, wanted)}, as far "
            "as memory goes."
        )
    return None


def _padding(found: Profile) -> str | None:
    share = max(found.performance.get(f"padding_{phase}", 0.0) for phase in ("update", "logprobs"))
    if share > 0.2:
        remedy = LESS_PADDING[found.run.profile.of]
        return f"{share:.0%} of the tokens that updates compute are padding (above 20%): {remedy}."
    return None


LESS_PADDING: Mapping[str, str] = {
    "fit": "model.packing=packed, and a larger algorithm.micro_batch_tokens leaves more room to pack",
    "sft": "model.packing=packed, and a larger sft.micro_batch_tokens leaves more room to pack",
    "reward_model": "a smaller reward_model.micro_batch_rows puts rows of like length together",
}


def _host(found: Profile) -> str | None:
    trace = found.trace
    update, seconds = trace.work.get("update", {}), trace.by_phase.get("update", 0.0)
    share = update.get(HOST, 0.0) / seconds if seconds else 0.0
    if share > 0.4:
        return (
            f"{share:.0%} of the update is outside operators (above 40%): its passes are too small to keep the device "
            f"busy; raise {LARGER_PASSES[found.run.profile.of]}, as far as memory goes."
        )
    return None


LARGER_PASSES: Mapping[str, str] = {
    "fit": "algorithm.micro_batch_tokens",
    "sft": "sft.micro_batch_tokens",
    "reward_model": "reward_model.micro_batch_rows",
}


def _optimiser(found: Profile) -> str | None:
    share = found.kind_share("optimiser")
    if share > 0.15:
        return (
            f"The optimiser takes {share:.0%} of a step (above 15%): updates of more tokens need fewer of its steps; "
            f"{FEWER_UPDATES[found.run.profile.of]}."
        )
    return None


FEWER_UPDATES: Mapping[str, str] = {
    "fit": "fewer algorithm.minibatches or a larger algorithm.prompts_per_step",
    "sft": "a larger sft.batch_size",
    "reward_model": "a larger reward_model.batch_size",
}


def _attention(found: Profile) -> str | None:
    if found.run.model.attention == "eager":
        return "Attention runs as plain products, which keeps scores of every pair of tokens: model.attention=auto."
    share = found.kind_share("attention")
    if share > 0.4:
        return f"Attention takes {share:.0%} of a step (above 40%): its cost grows with the square of the length."
    return None


def _checkpointing(found: Profile) -> str | None:
    device = device_of(found.run.trainer.accelerator)
    if found.run.model.activation_checkpointing == "none" or device.type != "cuda":
        return None
    share = found.performance["peak_allocated_gb"] * 1e9 / torch.cuda.get_device_properties(device).total_memory
    if share < 0.5:
        return (
            f"At its peak {share:.0%} of the GPU's memory is in use (below 50%), and activations are computed twice: "
            "model.activation_checkpointing=selective, or none."
        )
    return None


def _threads(found: Profile) -> str | None:
    processes, cores = launched().local_size, os.cpu_count() or 1
    threads = processes * torch.get_num_threads()
    if found.trace.device == "cpu" and threads < cores:
        remedy = f"OMP_NUM_THREADS={cores // processes}, where nothing else needs them."
        return f"torch uses {threads} of {cores} cores: {remedy}"
    return None


RULES: Sequence[Callable[[Profile], str | None]] = (
    _rewards,
    _sampling,
    _padding,
    _host,
    _optimiser,
    _attention,
    _checkpointing,
    _threads,
)
"""Each says what it looks at, its threshold, and what to set; the first to try comes first."""
