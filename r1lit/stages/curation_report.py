"""The account of a curation: how many samples there were, who judged them, what each filter dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from r1lit.curation.selection import Candidate, drops, solved_prompts
from r1lit.curation.settings import JudgeSettings
from r1lit.stages.verdicts import judge_figures


def account(candidates: Sequence[Candidate], settings: JudgeSettings) -> dict[str, Any]:
    """The figures of ``summary.json``."""
    samples = [item.sample for item in candidates]
    sources = list(dict.fromkeys(sample.source for sample in samples))
    return {
        "prompts": len({sample.index for sample in samples}),
        "samples": len(samples),
        "kept": sum(item.kept for item in candidates),
        "dropped": drops(candidates),
        "by_source": {
            source: {
                "samples": sum(sample.source == source for sample in samples),
                "correct": sum(sample.source == source and sample.correct is True for sample in samples),
                "kept": sum(item.sample.source == source and item.kept for item in candidates),
            }
            for source in sources
        },
        "judged_by": dict(Counter(sample.judged_by or "nobody" for sample in samples).most_common()),
        "judge": judge_figures(samples, settings),
        "solved": solved_prompts(candidates),
    }


def account_table(figures: Mapping[str, Any]) -> Table:
    """The account for the terminal: where every sample went."""
    table = Table(header_style="bold")
    for heading in ("", "samples", "share"):
        table.add_column(heading, justify="left" if not heading else "right")
    total = figures["samples"]

    def add(name: str, count: int, **style: Any) -> None:
        table.add_row(name, str(count), f"{count / total:.1%}", **style)

    add(f"sampled, of {figures['prompts']} prompts", total, end_section=True)
    for name, count in figures["dropped"].items():
        add(f"dropped: {name}", count)
    add("kept", figures["kept"], style="bold", end_section=True)
    for name, count in figures["judged_by"].items():
        add(f"judged by {name}", count)
    if len(figures["by_source"]) > 1:
        table.add_section()
        for name, counts in figures["by_source"].items():
            table.add_row(f"kept from {name}", str(counts["kept"]), f"{counts['kept'] / counts['samples']:.1%}")
    return table


def account_lines(figures: Mapping[str, Any]) -> list[str]:
    """The rest of the account, in words: the prompts, the judge, what was mixed in."""
    solved, judge, mix = figures["solved"], figures["judge"], figures.get("mix")
    lines = [
        f"prompts solved always {solved['always']}, sometimes {solved['sometimes']}, never {solved['never']}"
        + (f", not judged {solved['unjudged']}" if solved["unjudged"] else "")
    ]
    if judge["asked"]:
        failures = ", ".join(f"{reason} {count}" for reason, count in judge["failures"].items()) or "none"
        cost = "" if judge["cost"] is None else f", cost {judge['cost']:.4g}"
        lines.append(
            f"judge: {judge['asked']} samples in {judge['requests']} requests ({judge['retries']} repeated), "
            f"{judge['prompt_tokens']} + {judge['completion_tokens']} tokens{cost}; failures: {failures}"
        )
    if mix and mix["wanted"]:
        short = mix["wanted"] - mix["mixed"]
        lines.append(
            f"mixed in: {mix['mixed']} rows without reasoning beside {mix['reasoning']} with"
            + (f"; {short} fewer than the ratio asks for, because the sources have no more" if short else "")
        )
    return lines
