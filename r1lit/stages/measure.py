"""A run's model on its held-out prompts, with a bar while it is being measured."""

from __future__ import annotations

from r1lit.stages.evaluate import Judged, evaluate
from r1lit.stages.run import Run
from r1lit.stages.setup import Workbench, arithmetic
from r1lit.stages.summary import Summary


def measure(run: Run, bench: Workbench, summary: Summary) -> list[Judged]:
    """Sample and judge the held-out prompts, at most ``evaluation.prompts`` of them."""
    prompts = bench.prompts.validation[: run.evaluation.prompts]
    with summary.timed("evaluate"), summary.progress("evaluating", len(prompts)) as advance, arithmetic(run):
        return evaluate(bench.sampler, bench.rewards, prompts, run.evaluation, run.command.seed, advance)
