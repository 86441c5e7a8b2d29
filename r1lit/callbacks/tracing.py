"""A few steps under torch's profiler: which kind of work, in which phase, took the device's time."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function, schedule
from transformers import PreTrainedModel

from r1lit.modules.timing import PHASE

HEAD = "head over the vocabulary"
"""What the range around a model's own head is called in a trace."""

KINDS: Mapping[str, tuple[str, ...]] = {
    "head": (HEAD, "_Head"),
    "optimiser": ("Optimizer.",),
    "attention": ("scaled_dot_product", "ScaledDotProduct", "flash_attn", "FlashAttn", "varlen_attn", "VarlenAttn"),
}
"""Kinds of work, and what the name of an operator holds that it, and all within it, is counted for."""

PRODUCTS = frozenset({"aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm", "aten::_grouped_mm"})
MATMUL, OTHER, HOST, COLLECTIVES = "matmul", "other operators", "outside operators", "collectives"

HANDS_OVER = ("c10d::", "_c10d_functional::", "record_param_comms", "FSDP::", "gloo:", "nccl:")
"""How the names of operators and ranges begin that hand tensors to other processes, and wait for theirs."""

ASKED_FOR, ON_HOST, ON_DEVICE = ("gloo:", "nccl:"), "gloo:", "nccl"
"""How the names begin of what the host records of each collective; of gloo's, which last until they are done; and of
NCCL's kernels, which last as long."""

OUTSIDE = "outside of phases"
"""Callbacks, loading, what no phase times."""


@dataclass(frozen=True)
class Trace:
    """What a profiler saw of some steps, in seconds.

    Attributes:
        steps: how many.
        device: whose time it is: ``cpu``, or ``cuda``, whose kernels are counted for the operators that queued them.
        by_phase: phase to its wall time.
        work: phase to kind of work to seconds. `COLLECTIVES` is the time in which one was under way, waiting for other
            processes included. `HOST` is what is left of the wall time, on a CPU Python and the operators' overhead, on
            a GPU the time in which no kernel ran.
        operators: name to calls and seconds, its own without that of operators within it.
        collectives: how many there were.
    """

    steps: int
    device: str
    by_phase: dict[str, float] = field(default_factory=dict)
    work: dict[str, dict[str, float]] = field(default_factory=dict)
    operators: dict[str, tuple[int, float]] = field(default_factory=dict)
    collectives: int = 0

    @property
    def kinds(self) -> dict[str, float]:
        """Seconds by kind of work, over all phases."""
        total: Counter[str] = Counter()
        for kinds in self.work.values():
            total.update(kinds)
        return dict(total)


class Tracing(Callback):
    """Traces ``traced`` steps after ``untraced`` ones and a step in which the profiler warms up.

    Of several processes each is to have one: a profiler slows its process down, and the others would wait for it.

    Args:
        untraced, traced: steps.
        path: of the trace, for chrome://tracing or ui.perfetto.dev; ``.gz`` compresses it. None, where another process
            tells.

    Attributes:
        trace: what was seen, once training has ended.
        untraced_steps: ``time/*`` of the steps before, as the module has timed them.
    """

    def __init__(self, untraced: int, traced: int, path: str | None):
        self.untraced, self.traced, self.path = untraced, traced, path
        self.trace: Trace | None = None
        self.untraced_steps: list[dict[str, float]] = []
        self._profile: profile | None = None
        self._handles: list[Any] = []

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        models = [part for part in module.modules() if isinstance(part, PreTrainedModel)]
        heads = {id(head): head for part in models if (head := part.get_output_embeddings()) is not None}
        for head in heads.values():
            self._mark(head)
        cuda = module.device.type == "cuda"
        self._profile = profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])],
            schedule=schedule(wait=self.untraced, warmup=1, active=self.traced, repeat=1),
            on_trace_ready=lambda found: self._read(found, module.device.type),
        )
        self._profile.start()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        if len(self.untraced_steps) < self.untraced:
            times = {name: value for name, value in module.metrics.items() if name.startswith("time/")}
            self.untraced_steps.append(times)
        self._profile.step()

    def on_train_end(self, *_: Any) -> None:
        self._stop()

    def on_exception(self, *_: Any) -> None:
        self._stop()

    def _mark(self, head: torch.nn.Module) -> None:
        """Put a range around the module's forward pass."""
        open_ranges: list[record_function] = []

        def enter(*_: Any) -> None:
            open_ranges.append(record_function(HEAD))
            open_ranges[-1].__enter__()

        def leave(*_: Any) -> None:
            open_ranges.pop().__exit__(None, None, None)

        self._handles += [head.register_forward_pre_hook(enter), head.register_forward_hook(leave)]

    def _read(self, found: profile, device: str) -> None:
        if self.path is None:
            return
        found.export_chrome_trace(self.path)
        self.trace = read_trace(found.events(), self.traced, device)

    def _stop(self) -> None:
        while self._handles:
            self._handles.pop().remove()
        if self._profile is not None:
            self._profile.stop()
            self._profile = None


def read_trace(events: Iterable[FunctionEvent], steps: int, device: str) -> Trace:
    """Sort operators' own time by phase and kind of work."""
    events = list(events)
    exchanged = [event for event in events if _is_exchange(event)]
    events = [event for event in events if event.device_type.name == "CPU"]
    whole = [event for event in events if event.name.startswith("ProfilerStep")]
    phases = sorted(
        (event.time_range.start, event.time_range.end, event.name.removeprefix(PHASE))
        for event in events
        if event.name.startswith(PHASE)
    )
    starts = [start for start, _, _ in phases]
    work: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    operators: defaultdict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    by_phase: defaultdict[str, float] = defaultdict(float)
    for start, end, name in phases:
        by_phase[name] += (end - start) / 1e6
    by_phase[OUTSIDE] = sum(event.time_range.elapsed_us() for event in whole) / 1e6 - sum(by_phase.values())

    def phase_at(time: float) -> str:
        place = bisect_right(starts, time) - 1
        return phases[place][2] if place >= 0 and time < phases[place][1] else OUTSIDE

    for start, end in _merged((event.time_range.start, event.time_range.end) for event in exchanged):
        work[phase_at(start)][COLLECTIVES] += (end - start) / 1e6
    for event in events:
        if not _is_operator(event):
            continue
        seconds = (event.self_cpu_time_total if device == "cpu" else event.self_device_time_total) / 1e6
        work[phase_at(event.time_range.start)][kind_of(event)] += seconds
        calls, total = operators[event.name]
        operators[event.name] = calls + 1, total + seconds
    for name, seconds in by_phase.items():
        work[name][HOST] = max(seconds - sum(work[name].values()), 0.0)
    sorted_work = {name: dict(kinds) for name, kinds in work.items()}
    collectives = sum(event.name.startswith(ASKED_FOR) for event in events)
    return Trace(steps, device, dict(by_phase), sorted_work, dict(operators), collectives)


def kind_of(event: FunctionEvent) -> str:
    """The kind of work that an operator is part of."""
    around: FunctionEvent | None = event
    while around is not None:
        for kind, marks in KINDS.items():
            if any(mark in around.name for mark in marks):
                return kind
        around = around.cpu_parent
    return MATMUL if event.name in PRODUCTS else OTHER


def _is_operator(event: FunctionEvent) -> bool:
    """True for what computes, and not for a range around it."""
    return not event.name.startswith((PHASE, "ProfilerStep", HEAD, *HANDS_OVER))


def _is_exchange(event: FunctionEvent) -> bool:
    """True for what lasts as long as a collective is under way."""
    return event.name.startswith(ON_HOST if event.device_type.name == "CPU" else ON_DEVICE)


def _merged(spans: Iterable[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Spans of time as such that do not overlap.

    >>> _merged([(4, 6), (0, 2), (1, 3)])
    [(0, 3), (4, 6)]
    """
    merged: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged
