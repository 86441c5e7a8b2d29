"""From a run's settings to the stage they name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial

from transformers.utils import logging as transformers_logging

from r1lit.callbacks.storage import storing
from r1lit.distributed.failing import one_for_all
from r1lit.distributed.launch import launched
from r1lit.settings import UserError
from r1lit.stages.collect import collect
from r1lit.stages.evaluate import rows, summarize
from r1lit.stages.export import export
from r1lit.stages.fit import fit
from r1lit.stages.machine import BATCHES, launch_notes
from r1lit.stages.manifest import alone
from r1lit.stages.measure import measure
from r1lit.stages.pipeline import pipeline, show_plan
from r1lit.stages.plan import Compose
from r1lit.stages.preflight import preflight, require_signal
from r1lit.stages.profile import profile
from r1lit.stages.reject import reject
from r1lit.stages.reward_model import train_reward_model
from r1lit.stages.run import RESUMABLE, Run
from r1lit.stages.setup import ranks_of, workbench
from r1lit.stages.sft import sft
from r1lit.stages.summary import Summary
from r1lit.stages.try_reward import try_reward

Stage = Callable[[Run, Summary], None]


class StageInterruptedError(UserError):
    """Ctrl-C outside of training, where there is no state to save."""

    exit_code = 130


def run_stage(run: Run, compose: Compose, accept: Callable[[], None] = lambda: None) -> None:
    """Run the stage that ``run.command.stage`` names; its figures end up in the run's ``summary.json``.

    Args:
        run: its settings.
        compose: gives the configuration of the commands that a chain is made of.
        accept: called once nothing is left that would refuse to begin or to go on; a `ConfigError` may still come.

    Raises:
        UserError: with what stopped it and what to do, a full disk and Ctrl-C included.
    """
    transformers_logging.disable_progress_bar()
    try:
        first, ranks = launched().first, ranks_of(run)
        held = alone(run.directory) if run.command.stage in RESUMABLE and first else nullcontext()
        with one_for_all(), storing(run.directory), held:
            summary = Summary(run.directory, writes=first)
            # What was measured before decides what is measured now.
            summary.figures = ranks.from_first(summary.figures)
            together = f" in {ranks.size} processes ({run.trainer.strategy})" if ranks.size > 1 else ""
            summary.say(f"{run.command.stage}: {run.directory}{together}")
            for note in _notes(run):
                summary.say(f"note: {note}")
            if run.command.stage == "pipeline":
                _pipeline(run, summary, compose, accept)
            else:
                if first:
                    accept()
                STAGES[run.command.stage](run, summary)
    except KeyboardInterrupt as error:
        raise StageInterruptedError(f"interrupted; what there is lies in {run.directory}") from error


def _notes(run: Run) -> Iterator[str]:
    """What is odd about the processes that train together."""
    stage = run.profile.of if run.command.stage == "profile" else run.command.stage
    if stage in BATCHES:
        section, name = BATCHES[stage].split(".")
        yield from launch_notes(stage, run.trainer, getattr(getattr(run, section), name), launched())


def _recorded(stage: Stage) -> Stage:
    """The stage, with the way it ended kept in the summary."""

    def run_recorded(run: Run, summary: Summary) -> None:
        with summary.recording(), one_for_all():
            stage(run, summary)

    return run_recorded


def _pipeline(run: Run, summary: Summary, compose: Compose, accept: Callable[[], None]) -> None:
    if run.command.dry_run:
        show_plan(run, summary, compose)
    else:
        _recorded(partial(pipeline, compose=compose, accept=accept))(run, summary)


def _evaluate(run: Run, summary: Summary) -> None:
    with workbench(run) as bench:
        summary.show_prompts(bench.prompts)
        judged = measure(run, bench, summary)
    if not summary.writes:
        return
    with (run.directory / "samples.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(judged))
    summary.add(metric=run.evaluation.metric, evaluation=summarize(judged))


def _preflight(run: Run, summary: Summary) -> None:
    with workbench(run) as bench:
        summary.show_prompts(bench.prompts)
        found = preflight(run, bench)
        summary.preflight(found)
        require_signal(found, run.command.force)


STAGES: Mapping[str, Stage] = {
    "fit": _recorded(fit),
    "sft": _recorded(sft),
    "reward_model": _recorded(train_reward_model),
    "evaluate": _recorded(_evaluate),
    "preflight": _recorded(_preflight),
    "profile": _recorded(profile),
    "try_reward": _recorded(try_reward),
    "collect": _recorded(collect),
    "reject": _recorded(reject),
    # What it exports keeps the ending that its training had.
    "export": export,
}
