"""The end of a run in the terminal: the measures, and where things lie."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from r1lit.report.comparison import show
from r1lit.report.pictures import draw
from r1lit.report.table import evaluation_table

LEFT_BEHIND = {
    "model": "the model, for transformers, vLLM and any other Hugging Face tool",
    "summary.json": "the figures above, and more",
    "metrics.jsonl": "one object a step",
    "profile.md": "the page above",
    "trace.json.gz": "the traced steps, for ui.perfetto.dev or chrome://tracing",
    "progress.png": "accuracy and length against steps",
    "completions": "what the policy wrote, with every reward's column (Parquet)",
    "samples.jsonl": "every sample",
    "candidates.jsonl": "every sample with what became of it",
    "checkpoints": "states to resume from",
    "demonstrations.jsonl": "what was kept, to fine-tune on",
    "table.json": "the tables above",
    "table.png": "the same as a picture",
    "manifest.json": "what of the chain is done",
}


def conclude(directory: Path, console: Console | None = None) -> None:
    """Draw the pictures, print the table, and name what the run left in its directory."""
    console = console or Console(stderr=True)
    draw(directory)
    summary = json.loads((directory / "summary.json").read_text())
    measured = {name: summary[name] for name in ("before", "after", "evaluation") if name in summary}
    if (directory / "results.json").exists():
        show(directory, console)
    if measured:
        console.print(evaluation_table(measured))
    for name, what in LEFT_BEHIND.items():
        if (directory / name).exists():
            console.print(f"  {directory / name}  {what}", highlight=False, markup=False, soft_wrap=True)
