"""Run a chain of stages, each a process of its own, and compare the models that it makes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.table import Table

from r1lit.callbacks.checkpointing import RunInterruptedError
from r1lit.callbacks.storage import replacing
from r1lit.rewards.process import describe_end, die_with_parent
from r1lit.settings import UserError, quoted
from r1lit.stages.manifest import Manifest
from r1lit.stages.plan import Compose, Step, plan
from r1lit.stages.run import Run
from r1lit.stages.summary import Summary

RESULTS = "results.json"


class StepFailedError(UserError):
    """A step ended otherwise than it should; the chain can go on from there."""

    def __init__(self, step: Step, code: int, root: Path):
        self.exit_code = code if code > 0 else 128 - code
        super().__init__(
            f"step {step.name} failed ({describe_end(code)}); its messages stand above, and {step.directory} holds "
            f"what it left. Go on from there with: r1lit resume={root}"
        )


def pipeline(run: Run, summary: Summary, compose: Compose, accept: Callable[[], None]) -> None:
    """Run every step that is not done yet, then write every model's measures to ``results.json``.

    ``accept`` is called once nothing speaks against the chain, before the first step.

    Raises:
        ConfigError: with the mistakes of all steps, before the first one starts.
        UserError: where steps on the disk were made under another configuration, or a step fails.
    """
    steps = plan(run, compose)
    manifest = Manifest(run.directory)
    manifest.check(steps, run.command.force)
    accept()
    for number, step in enumerate(steps, start=1):
        place = f"[{number}/{len(steps)}] {step.directory.relative_to(run.directory)}"
        if manifest.done(step):
            summary.say(f"{place}: done before")
            continue
        summary.say(f"{place}: {step.kind}")
        with summary.timed(str(step.directory.relative_to(run.directory))):
            _run(step, manifest, run.directory)
    with replacing(run.directory / RESULTS) as part:
        part.write_text(json.dumps(results(run, steps), indent=2) + "\n")


def show_plan(run: Run, summary: Summary, compose: Compose) -> None:
    """Print the chain as it would run, with what is done already, and leave everything as it is."""
    summary.console.print(overview(plan(run, compose), Manifest(run.directory)))


def _run(step: Step, manifest: Manifest, root: Path) -> None:
    resumes = manifest.begun(step)
    manifest.begin(step)
    start = time.perf_counter()
    key = "resume" if resumes else "hydra.run.dir"
    code, signum = _call([sys.executable, "-m", "r1lit", *step.overrides, f"{key}={quoted(str(step.directory))}"])
    if code or not step.makes.exists():
        raise StepFailedError(step, code, root)
    manifest.finish(step, time.perf_counter() - start)
    if signum is not None:
        # The step had come to its end before it could heed the signal.
        raise RunInterruptedError(signum, root)


def _call(command: Sequence[str]) -> tuple[int, int | None]:
    """Run a command to its end; it dies with this process, and gets the signals that this one gets.

    Returns:
        Its exit status, and the last signal that came.
    """
    # In a group of its own Ctrl-C reaches it once, through the handler, and it can save and stop in good order.
    child = subprocess.Popen(command, start_new_session=True, preexec_fn=die_with_parent)
    with _forwarding(child) as signals:
        code = child.wait()
    return code, signals[-1] if signals else None


@contextmanager
def _forwarding(child: subprocess.Popen) -> Iterator[list[int]]:
    signals: list[int] = []

    def forward(signum: int, frame: FrameType | None) -> None:
        signals.append(signum)
        child.send_signal(signum)

    before = {signum: signal.signal(signum, forward) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def results(run: Run, steps: Sequence[Step]) -> dict[str, Any]:
    """Every model's measures, by seed, and what each was made from."""
    chain = run.pipeline
    values: dict[str, dict[str, dict[str, float | None]]] = {}
    for step in steps:
        if step.name in chain.models:
            figures = _figures(step)
            values.setdefault(str(step.seed), {})[step.name] = {
                name: _figure(figures, measure.task, measure.figure) for name, measure in chain.measures.items()
            }
    return {
        "models": chain.models,
        "made_from": _origins([step for step in steps if step.name in chain.models]),
        "measures": {name: measure.model_dump() for name, measure in chain.measures.items()},
        "claims": {name: claim.model_dump() for name, claim in chain.testable.items()},
        "values": values,
        "compute": {
            str(seed): {step.name: _compute(step) for step in steps if step.seed == seed and step.name in chain.models}
            for seed in dict.fromkeys(step.seed for step in steps)
        },
    }


def _figures(step: Step) -> Mapping[str, Any]:
    """The step's evaluation of the model that it made, or was given."""
    summary = json.loads((step.directory / "summary.json").read_text())
    return summary.get("after") or summary.get("evaluation") or {}


def _figure(figures: Mapping[str, Any], task: str | None, name: str) -> float | None:
    found: Any = figures if task is None else figures.get("by_task", {}).get(task, {})
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _compute(step: Step) -> dict[str, float]:
    summary = json.loads((step.directory / "summary.json").read_text())
    return {name: summary[name] for name in ("steps", "tokens", "flops") if name in summary}


def _origins(steps: Sequence[Step]) -> dict[str, str]:
    """By step: the step of the table that made, or measured, the model that it starts from."""
    trained = [step for step in steps if step.kind != "evaluate"]
    names = {step.config["model"]["path"]: step.name for step in steps if step.kind == "evaluate"}
    names |= {str(step.makes): step.name for step in trained}
    return {step.name: names[path] for step in trained if (path := step.config["model"]["path"]) in names}


def overview(steps: Sequence[Step], manifest: Manifest) -> Table:
    """The chain as a table: what each step reads, does and makes, and what is done already."""
    table = Table(header_style="bold", title=f"{len(steps)} steps in {manifest.root}", title_justify="left")
    for heading in ("step", "stage", "model", "reads", "size", "makes", "state"):
        table.add_column(heading, overflow="fold")
    for step in steps:
        table.add_row(
            str(step.directory.relative_to(manifest.root)),
            step.kind,
            _short(step.config["model"]["path"], manifest.root),
            ", ".join(step.inputs) or "-",
            SIZES[step.kind](step.config),
            step.makes.name,
            "done" if manifest.done(step) else "begun" if manifest.begun(step) else "to do",
        )
    return table


def _short(path: str, root: Path) -> str:
    return os.path.relpath(path, root) if path.startswith(f"{root}/") else path


def _fit_size(config: Mapping[str, Any]) -> str:
    algorithm = config["algorithm"]
    return f"{algorithm['steps']} steps x {algorithm['prompts_per_step']} prompts x {algorithm['group_size']}"


def _training_size(section: str) -> Callable[[Mapping[str, Any]], str]:
    def size(config: Mapping[str, Any]) -> str:
        own = config[section]
        length = f"{own['steps']} steps" if own["steps"] else f"{own['epochs']} epochs"
        return f"{length} of {own['batch_size']}"

    return size


def _sampling_size(section: str) -> Callable[[Mapping[str, Any]], str]:
    def size(config: Mapping[str, Any]) -> str:
        return ", ".join(f"{key}={value}" for key, value in config[section].items() if key in ("prompts", "k"))

    return size


SIZES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "fit": _fit_size,
    "sft": _training_size("sft"),
    "reward_model": _training_size("reward_model"),
    "collect": _sampling_size("collect"),
    "reject": _sampling_size("reject"),
    "evaluate": lambda config: f"{config['evaluation']['prompts']} prompts x {config['evaluation']['k']}",
}
"""How much each stage does, from its configuration."""
