"""Where the time of a training went, and how well it used the machine: for the summary and the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from r1lit.callbacks.hardware import Peak
from r1lit.modules.timing import parted
from r1lit.stages.summary import Summary

Steps = Sequence[Mapping[str, Any]]

SPENT: Mapping[str, str] = {"sampled_tokens_per_second": "time/sample", "trained_tokens_per_second": "time/update"}
"""Rates that are of a phase, and its seconds; a name that ends in a phase's is of that phase, others of the step."""


def report(steps: Steps, peak: Peak, summary: Summary) -> None:
    """Add a training's ``performance`` to its summary, and show where the time went."""
    if not steps:
        return
    figures = performance(steps)
    summary.add(performance=figures)
    summary.say(table(summary.figures.get("seconds", {}), figures, peak))


def performance(steps: Steps) -> dict[str, float]:
    """The steps' ``perf/*`` as figures of the whole training: rates and shares weighted by the seconds they hold for,
    of peaks the highest; FLOPs, which the summary adds up, are left out."""
    names = {name.removeprefix("perf/") for step in steps for name in step if name.startswith("perf/")} - {"flops"}
    return {name: _figure(steps, name) for name in sorted(names)}


def _figure(steps: Steps, name: str) -> float:
    values = [(step[f"perf/{name}"], _seconds(step, name)) for step in steps if step.get(f"perf/{name}") is not None]
    if "peak" in name:
        return max(value for value, _ in values)
    return sum(value * seconds for value, seconds in values) / max(sum(seconds for _, seconds in values), 1e-12)


def _seconds(step: Mapping[str, Any], name: str) -> float:
    phase = SPENT.get(name) or f"time/{name.rsplit('_', 1)[-1]}"
    return step.get(phase) or step["time/step"]


def table(seconds: Mapping[str, float], figures: Mapping[str, float], peak: Peak) -> str:
    """Phases with their seconds and shares, the longest first, what went on beside them, and what the machine gave.

    Args:
        seconds: by phase, as the summary holds them; ``fit`` is the whole training, ``step`` all its steps.
        figures: as `performance` makes them.
        peak: of the device.
    """
    own, beside = parted(seconds)
    phases = {LABELS.get(name, name): value for name, value in own.items() if name not in AROUND}
    phases["rest of the step"] = seconds["step"] - sum(phases.values())
    phases["between steps"] = seconds.get("fit", 0.0) - seconds["step"]
    # Of a run that was killed the steps are known, and not how long it took in all.
    phases = {name: value for name, value in phases.items() if value >= 0.0005}
    whole = sum(phases.values())
    rows = [
        f"  {name:18}{value:10.1f}{value / whole:8.0%}" for name, value in sorted(phases.items(), key=lambda p: -p[1])
    ]
    if beside:
        rows.append("beside these, in a thread of its own")
        rows += [f"  {name:18}{value:10.1f}" for name, value in sorted(beside.items(), key=lambda p: -p[1])]
    machine = [f"  {line}" for line in machine_lines(figures, peak)]
    return "\n".join([f"{'where the time went':20}{'seconds':>10}{'share':>8}", *rows, *machine])


AROUND = frozenset({"fit", "step", "evaluate", "preflight"})
"""What is timed around a training, or is all of it."""

LABELS: Mapping[str, str] = {"wait": "wait for rollouts"}

MEMORY: Mapping[str, str] = {
    "peak_allocated_gb": "allocated by torch on the GPU",
    "peak_rss_gb": "resident, the whole process",
    "process_peak_rss_gb": "resident, the whole process since it began",
}


def machine_lines(figures: Mapping[str, float], peak: Peak) -> list[str]:
    """Speeds, memory, padding, and shares of what the device can do."""
    speeds = {"tokens/s": "tokens_per_second", "sampled": "sampled_tokens_per_second"}
    speeds |= {"trained": "trained_tokens_per_second"}
    lines = [", ".join(f"{label} {figures[name]:,.0f}" for label, name in speeds.items() if name in figures)]
    lines += [f"peak memory {figures[name]:.2f} GB ({what})" for name, what in MEMORY.items() if name in figures]
    padding = {name.removeprefix("padding_"): value for name, value in figures.items() if name.startswith("padding_")}
    lines += ["padding " + ", ".join(f"{phase} {share:.0%}" for phase, share in padding.items())] if padding else []
    if "mfu" in figures:
        names = {"mfu": "MFU"} | {name: name.removeprefix("mfu_") for name in figures if name.startswith("mfu_")}
        parts = ", ".join(f"{label} {figures[name]:.1%}" for name, label in names.items())
        lines.append(f"{parts} of {peak.tflops:g} TFLOP/s")
    else:
        lines.append(f"no MFU: the peak of {peak.device} is not known; set trainer.peak_tflops")
    if "mbu_sample" in figures:
        lines.append(f"memory bandwidth while sampling {figures['mbu_sample']:.1%} of {peak.bandwidth_gbs:g} GB/s")
    return lines
