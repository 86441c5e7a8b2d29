"""A chain of stages before it runs: each step's command, what it reads and makes, and all that is wrong with them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import r1lit
from r1lit.settings import ConfigError, quoted, suggest
from r1lit.stages.pipeline_settings import PipelineSettings, StepSettings
from r1lit.stages.run import Run, read

Compose = Callable[[Sequence[str]], tuple[Mapping[str, Any], Sequence[str]]]
"""From typed overrides to a plain configuration, and what is wrong with the overrides themselves."""

MAKES: Mapping[str, tuple[str, ...]] = {
    "fit": ("model",),
    "sft": ("model",),
    "reward_model": ("model",),
    "collect": ("demonstrations.jsonl", "candidates.jsonl"),
    "reject": ("demonstrations.jsonl", "candidates.jsonl"),
    "evaluate": ("samples.jsonl",),
}
"""What each stage leaves in its directory for the steps after it."""

_REFERENCE = re.compile(r"\{steps\.([^{}]+)\}")

_PLAIN, _WORDS = re.compile(r"[A-Za-z_./][A-Za-z0-9_./@-]*"), ("true", "false", "null", "inf", "nan")
"""Texts that need no quotes, and words that then would be no texts."""

_INCIDENTAL = ("runs", "resume", "force", "dry_run", "logger", "completions", "pipeline")
"""Sections that change nothing about what a step makes."""


@dataclass(frozen=True)
class Step:
    """One step of a chain, ready to run.

    Attributes:
        name: its name in the chain.
        seed: the seed of this pass through the chain.
        directory: where it runs.
        overrides: its command's arguments.
        inputs: the steps whose outputs it reads.
        config: what they compose to.
        fingerprint: of its command and its inputs'; a change in any of them changes it.
    """

    name: str
    seed: int
    directory: Path
    overrides: tuple[str, ...]
    inputs: tuple[str, ...]
    config: Mapping[str, Any]
    fingerprint: str

    @property
    def kind(self) -> str:
        return self.config["stage"]

    @property
    def outputs(self) -> list[Path]:
        """What it leaves for the steps after it, the chief thing first."""
        return [self.directory / name for name in MAKES[self.kind]]

    @property
    def makes(self) -> Path:
        return self.outputs[0]


def plan(run: Run, compose: Compose) -> list[Step]:
    """Every step of every pass through the chain, in the order in which they run.

    Raises:
        ConfigError: with every mistake of every step.
    """
    chain, problems = run.pipeline, []
    if not chain.chosen:
        raise ConfigError(["stage=pipeline has no pipeline.steps to run; choose a chain, for instance experiment=r1"])
    seeds = chain.seeds or [run.command.seed]
    steps: list[Step] = []
    for seed in seeds:
        folder = run.directory / f"seed_{seed}" if chain.seeds else run.directory
        earlier: dict[str, Step] = {}
        broken: set[str] = set()
        for name, settings in chain.chosen.items():
            if broken.intersection(_references(settings.set)):
                # What is wrong is said of the step that it reads.
                broken.add(name)
                continue
            try:
                earlier[name] = _step(name, settings, chain, seed, folder, earlier, compose)
            except ConfigError as error:
                broken.add(name)
                problems += [f"pipeline.steps.{name}: {problem}" for problem in error.problems]
        steps += earlier.values()
    if problems:
        # A mistake in a step is one mistake, however many seeds it would run with.
        raise ConfigError(dict.fromkeys(problems))
    return steps


def _step(
    name: str,
    settings: StepSettings,
    chain: PipelineSettings,
    seed: int,
    folder: Path,
    earlier: Mapping[str, Step],
    compose: Compose,
) -> Step:
    directory = folder / name
    inputs = list(dict.fromkeys(_references([chain.common.set, settings.set])))
    if unknown := [reference for reference in inputs if reference not in earlier]:
        raise ConfigError(
            f"{{steps.{reference}}} is no earlier step of the chain; {suggest(reference, earlier)} (what reads a step "
            "that was dropped needs another input)"
            for reference in unknown
        )
    places = {reference: str(earlier[reference].directory) for reference in inputs}
    overrides = (
        *(f"{group}={_spelt(choice, {})}" for group, choice in {**chain.common.use, **settings.use}.items()),
        f"name={name}",
        f"seed={seed}",
        *_flat(_merged(chain.common.set, settings.set), places),
    )
    config, problems = compose(overrides)
    _check(config, directory, problems, [output for name in inputs for output in earlier[name].outputs])
    return Step(
        name=name,
        seed=seed,
        directory=directory,
        overrides=overrides,
        inputs=tuple(inputs),
        config=config,
        fingerprint=_fingerprint(config, [earlier[reference].fingerprint for reference in inputs], places),
    )


def _check(config: Mapping[str, Any], directory: Path, found: Sequence[str], coming: Sequence[Path]) -> None:
    """Refuse a step with mistakes; that what earlier steps make is not there yet is none."""
    expected = re.compile("|".join(f"{re.escape(str(path))}(?![\\w/.-])" for path in coming) or r"(?!)")
    problems = []
    try:
        read(config, directory, found)
    except ConfigError as error:
        problems = [problem for problem in error.problems if not expected.search(problem)]
    stage = config.get("stage")
    if stage not in MAKES and not problems:
        problems = [f"stage={stage} makes nothing that a chain could use; {suggest(str(stage), MAKES)}"]
    if problems:
        raise ConfigError(problems)


def _references(values: Any) -> list[str]:
    """The steps that settings speak of, in the order in which they do."""
    inside = values.values() if isinstance(values, Mapping) else values if isinstance(values, list) else ()
    own = _REFERENCE.findall(values) if isinstance(values, str) else ()
    return [*own, *(reference for value in inside for reference in _references(value))]


def _merged(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Both, nested; a step's own setting wins."""
    both = dict(common)
    for key, value in own.items():
        nested = isinstance(value, Mapping) and isinstance(both.get(key), Mapping)
        both[key] = _merged(both[key], value) if nested else value
    return both


def _flat(values: Mapping[str, Any], places: Mapping[str, str], prefix: str = "") -> Iterator[str]:
    """Nested settings as ``a.b.c=value``."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, places, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={_spelt(value, places)}"


def _spelt(value: Any, places: Mapping[str, str]) -> str:
    """A value in Hydra's spelling."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_spelt(item, places)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_spelt(item, places) for item in value) + "]"
    if isinstance(value, str):
        text = _REFERENCE.sub(lambda found: places.get(found[1], found[0]), value)
        plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS
        return text if plain else quoted(text)
    return json.dumps(value)


def _fingerprint(config: Mapping[str, Any], inputs: Sequence[str], places: Mapping[str, str]) -> str:
    """A hash of what a step computes, wherever it runs: its composed configuration, and its inputs' hashes."""
    kept = {key: value for key, value in config.items() if key not in _INCIDENTAL}
    text = json.dumps([r1lit.__version__, kept, list(inputs)], sort_keys=True)
    for name, place in places.items():
        text = text.replace(place, f"{{steps.{name}}}")
    return hashlib.sha256(text.encode()).hexdigest()[:16]
