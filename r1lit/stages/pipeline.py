"""Run a chain of stages, each a process of its own, and compare the models that it makes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from r1lit.callbacks.storage import replacing
from r1lit.stages.manifest import Manifest
from r1lit.stages.plan import Compose, Step, plan
from r1lit.stages.run import Run
from r1lit.stages.running import run_steps
from r1lit.stages.standby import Standby
from r1lit.stages.summary import Summary

RESULTS = "results.json"


def pipeline(run: Run, summary: Summary, compose: Compose, accept: Callable[[], None]) -> None:
    """Run every step that is not done yet, then write every model's measures to ``results.json``.

    ``accept`` is called once nothing speaks against the chain, before the first step.

    Raises:
        ConfigError: with the mistakes of all steps, before the first one starts.
        UserError: where steps on the disk were made under another configuration, or a step fails.
    """
    at_once = run.pipeline.at_once
    with Standby(at_once) as standby:
        steps = plan(run, compose)
        manifest = Manifest(run.directory)
        manifest.check(steps, run.command.force)
        accept()
        run_steps(steps, manifest, standby, at_once, summary.say, summary.took)
    with replacing(run.directory / RESULTS) as part:
        part.write_text(json.dumps(results(run, steps), indent=2) + "\n")


def show_plan(run: Run, summary: Summary, compose: Compose) -> None:
    """Print the chain as it would run, with what is done already, and leave everything as it is."""
    summary.console.print(overview(plan(run, compose), Manifest(run.directory)))


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
