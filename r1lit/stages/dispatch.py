"""From a run's settings to the stage they name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from transformers.utils import logging as transformers_logging

from r1lit.stages.evaluate import evaluate, rows, summarize
from r1lit.stages.export import export
from r1lit.stages.fit import fit
from r1lit.stages.preflight import preflight
from r1lit.stages.settings import Run
from r1lit.stages.setup import workbench
from r1lit.stages.summary import Summary
from r1lit.stages.try_reward import try_reward


def run_stage(run: Run) -> None:
    """Run the stage that ``run.command.stage`` names; its figures end up in the run's ``summary.json``."""
    transformers_logging.disable_progress_bar()
    summary = Summary(run.directory)
    summary.say(f"{run.command.stage}: {run.directory}")
    STAGES[run.command.stage](run, summary)
    summary.add(status="finished")


def _evaluate(run: Run, summary: Summary) -> None:
    with workbench(run) as bench:
        summary.show_prompts(bench.prompts)
        prompts = bench.prompts.validation[: run.evaluation.prompts]
        with summary.progress("evaluating", len(prompts)) as advance:
            judged = evaluate(bench.sampler, bench.rewards, prompts, run.evaluation, run.command.seed, advance)
    with (run.directory / "samples.jsonl").open("w") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(judged))
    summary.add(evaluation=summarize(judged))


def _preflight(run: Run, summary: Summary) -> None:
    with workbench(run) as bench:
        summary.show_prompts(bench.prompts)
        summary.preflight(preflight(run, bench))


STAGES: Mapping[str, Callable[[Run, Summary], None]] = {
    "fit": fit,
    "evaluate": _evaluate,
    "preflight": _preflight,
    "try_reward": try_reward,
    "export": export,
}
