"""A profile as one page: phases, kinds of work, operators, memory, and what to try first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from r1lit.callbacks.tracing import COLLECTIVES, HOST, MATMUL, OTHER
from r1lit.stages.performance import machine_lines
from r1lit.stages.profile_advice import Profile, advice
from r1lit.stages.setup import precision_of

KINDS = (MATMUL, "attention", "head", "optimiser", OTHER, COLLECTIVES, HOST)


def page(found: Profile) -> str:
    """The page, in Markdown."""
    run, settings = found.run, found.run.profile
    head = (
        f"# Profile of stage={settings.of}, {run.model.path} on {found.peak.device}\n\n"
        f"{settings.steps} steps timed after {settings.warmup} of warm-up, then {settings.traced} traced; "
        f"{precision_of(run)}, torch {torch.__version__}, {torch.get_num_threads()} threads."
    )
    if (size := len(found.of_ranks)) > 1:
        head += (
            f"\n\n{size} processes trained (trainer={run.trainer.strategy}). What follows was seen by rank 0 of them, "
            "but for speeds and FLOPs, which are everyone's."
        )
    sections = [
        head,
        "## A step\n\n" + _phases(found),
        *(["## The processes\n\n" + _processes(found)] if size > 1 else []),
        "\n".join(machine_lines(found.performance, found.peak)),
        "## What the device did\n\n" + _work(found),
        "## Operators with the most time of their own\n\n" + _operators(found),
        "## What to try first\n\n" + "\n".join(f"- {line}" for line in advice(found)),
    ]
    return "\n\n".join(sections) + "\n"


def _phases(found: Profile) -> str:
    phases = {name: value for name, value in found.seconds.items() if name != "step"}
    phases["rest"] = max(found.seconds["step"] - sum(phases.values()), 0.0)
    rows = [
        [NAMES.get(name, name), f"{value:.3f}", f"{value / found.seconds['step']:.0%}"]
        for name, value in sorted(phases.items(), key=lambda item: -item[1])
    ]
    text = _table(["phase", "seconds", "share"], [*rows, ["step", f"{found.seconds['step']:.3f}", "100%"]])
    if found.beside:
        beside = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in found.beside.items())
        text += f"\n\nBeside a step, in a thread of its own that is not traced below: {beside}."
    return text


def _processes(found: Profile) -> str:
    """Where one is slower than another the others wait, in the collective that comes next, whatever its phase."""
    names = sorted({name for seconds in found.of_ranks for name in seconds} - {"step"}, key=found.of_ranks[0].get)
    rows = []
    for name in reversed(names):
        taken = [seconds.get(name, 0.0) for seconds in found.of_ranks]
        slowest = max(range(len(taken)), key=taken.__getitem__)
        figures = (taken[0], min(taken), taken[slowest])
        rows.append([NAMES.get(name, name), *(f"{value:.3f}" for value in figures), str(slowest)])
    share, calls = found.kind_share(COLLECTIVES), found.trace.collectives / found.trace.steps
    seconds = found.trace.kinds.get(COLLECTIVES, 0.0) / found.trace.steps
    return _table(["phase", "rank 0", "fastest", "slowest", "its rank"], rows) + (
        f"\n\nRank 0 spent {seconds:.3f} s ({share:.0%}) of a traced step in {calls:,.0f} collectives, waiting for the "
        "other processes included."
    )


NAMES: Mapping[str, str] = {
    "score": "score (waiting for rewards)",
    "logprobs": "logprobs (old policy, reference)",
    "wait": "wait (for rollouts under way)",
}


def _work(found: Profile) -> str:
    trace = found.trace
    whole = sum(trace.by_phase.values())
    rows = []
    kinds = [kind for kind in KINDS if kind != COLLECTIVES or trace.collectives]
    for phase, seconds in sorted(trace.by_phase.items(), key=lambda item: -item[1]):
        shares = [f"{trace.work[phase].get(kind, 0.0) / whole:.0%}" for kind in kinds]
        rows.append([phase, f"{seconds / trace.steps:.3f}", *shares])
    total = [f"{found.kind_share(kind):.0%}" for kind in kinds]
    slowed = whole / trace.steps / found.seconds["step"]
    what = "no kernel ran" if trace.device == "cuda" else "Python, waiting, and the profiler itself"
    return (
        _table(["phase", "seconds", *kinds], [*rows, ["all", f"{whole / trace.steps:.3f}", *total]])
        + f"\n\nShares are of the traced steps, which took {slowed:.2f} times as long as those above. {HOST}: {what}."
    )


def _operators(found: Profile) -> str:
    whole, steps = sum(found.trace.by_phase.values()), found.trace.steps
    rows = [
        [name, f"{calls / steps:,.0f}", f"{seconds / steps * 1e3:.1f}", f"{seconds / whole:.1%}"]
        for name, (calls, seconds) in found.top(12)
    ]
    return _table(["operator", "calls a step", "ms a step", "share"], rows)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that also reads as plain text: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in [titles, *rows]) for column in range(len(titles))]

    def line(row: Sequence[str]) -> str:
        first, *others = zip(row, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"

    rule = [("-" * width) if n == 0 else "-" * (width - 1) + ":" for n, width in enumerate(widths)]
    return "\n".join([line(titles), line(rule), *map(line, rows)])
