"""Settings of the command itself, and every section of a run put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from r1lit.data.settings import DataSettings
from r1lit.data.splits import HELD_OUT_SHARE
from r1lit.models.loading import TINY, ModelSettings, path_problem
from r1lit.modules.settings import AlgorithmSettings, OptimizerSettings
from r1lit.rewards.spec import RewardSettings
from r1lit.rollout.settings import RolloutSettings
from r1lit.settings import ConfigError, Settings, parse, suggest
from r1lit.types import Sampling


class PreflightSettings(Settings):
    """How many prompts are tried before a run, a group of completions each."""

    enabled: bool = True
    prompts: int = Field(16, ge=1)


class EvaluationSettings(Settings):
    """How a model is measured on held-out prompts.

    Attributes:
        enabled: measure before and after training.
        metric: the reward that says whether a completion is right (above one half).
        prompts: at most so many held-out prompts.
        k: samples a prompt.
        temperature: 0 is greedy.
        top_p: 1 keeps the whole distribution.
        max_tokens: longest completion.
        batch_prompts: prompts decoded together.
        every: steps between evaluations while training; 0 for none.
    """

    enabled: bool = True
    metric: str = "accuracy"
    prompts: int = Field(500, ge=1)
    k: int = Field(16, ge=1)
    temperature: float = Field(0.6, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    max_tokens: int = Field(2048, ge=1)
    batch_prompts: int = Field(32, ge=1)
    every: int = Field(0, ge=0)

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.max_tokens)


class CompletionsSettings(Settings):
    """Which steps' completions are saved; 0 for none."""

    every: int = Field(10, ge=0)


class TrainerSettings(Settings):
    """Where the training runs, and how often it saves its state.

    Attributes:
        accelerator: ``auto``, ``cpu`` or ``gpu``.
        precision: Lightning's name of an arithmetic; ``auto`` is bf16-mixed on CUDA and 32-true elsewhere.
        checkpoint_every: steps between checkpoints; 0 for none.
        keep_checkpoints: how many of the newest are kept.
    """

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["auto", "32-true", "bf16-mixed", "bf16-true"] = "auto"
    checkpoint_every: int = Field(50, ge=0)
    keep_checkpoints: int = Field(2, ge=1)


class LoggerSettings(Settings):
    """Where metrics go beside the run's metrics.jsonl."""

    kind: Literal["csv", "tensorboard", "wandb", "none"] = "csv"
    project: str = "r1lit"
    group: str | None = None


class CommandSettings(Settings):
    """What the command does, under which name, from which seed."""

    stage: Literal["fit", "evaluate", "preflight", "try_reward", "export"] = "fit"
    name: str = "run"
    runs: str = "runs"
    seed: int = Field(0, ge=0)
    resume: str | None = None
    force: bool = False
    workers: int = Field(1, ge=1)


SECTIONS: Mapping[str, type[Settings]] = {
    "model": ModelSettings,
    "data": DataSettings,
    "algorithm": AlgorithmSettings,
    "rollout": RolloutSettings,
    "optimizer": OptimizerSettings,
    "trainer": TrainerSettings,
    "logger": LoggerSettings,
    "preflight": PreflightSettings,
    "evaluation": EvaluationSettings,
    "completions": CompletionsSettings,
}


@dataclass(frozen=True)
class Run:
    """Every setting of a run, typed and checked, and the directory that it fills."""

    directory: Path
    command: CommandSettings
    model: ModelSettings
    data: DataSettings
    algorithm: AlgorithmSettings
    rollout: RolloutSettings
    optimizer: OptimizerSettings
    trainer: TrainerSettings
    logger: LoggerSettings
    preflight: PreflightSettings
    evaluation: EvaluationSettings
    completions: CompletionsSettings
    rewards: Mapping[str, RewardSettings]

    @property
    def evaluates(self) -> bool:
        """True where the stage measures the model on held-out prompts."""
        trains = self.command.stage == "fit"
        return self.command.stage == "evaluate" or (trains and bool(self.evaluation.enabled or self.evaluation.every))


def read(config: Mapping[str, Any], directory: Path, found: Sequence[str] = ()) -> Run:
    """Turn a composed configuration into a run.

    Raises:
        ConfigError: with every mistake of every section, and those ``found`` before.
    """
    problems = list(found)

    def collect(sections: Mapping[str, type[Settings]], values: Mapping[str, Any]) -> dict[str, Settings]:
        try:
            return parse(sections, values)
        except ConfigError as error:
            problems.extend(error.problems)
            return {}

    unset = list(_unset(config))
    problems += [f"{key} is not set; add {key}=..." for key in unset]
    known = {*SECTIONS, *CommandSettings.model_fields, "reward"}
    problems += [f"{key} is no setting; {suggest(key, known)}" for key in config if key not in known]
    command = collect(
        {"command": CommandSettings},
        {"command": {k: v for k, v in config.items() if k in CommandSettings.model_fields}},
    )
    # What else is wrong with a section that lacks a value cannot be told yet.
    whole = {name: kind for name, kind in SECTIONS.items() if not any(key.startswith(f"{name}.") for key in unset)}
    sections = {key: value for name in whole for key, value in collect({name: whole[name]}, config).items()}
    rewards = _rewards(config, collect, problems)
    problems += _reward_problems(config, rewards)
    problems += _stage_problems(config, sections)
    problems += _machine_problems(sections)
    if problems:
        raise ConfigError(line.replace("command.", "") if line.startswith("command.") else line for line in problems)
    return Run(directory=directory, rewards=rewards, **command, **sections)


def _rewards(
    config: Mapping[str, Any],
    collect: Callable[[Mapping[str, type[Settings]], Mapping[str, Any]], dict[str, Settings]],
    problems: list[str],
) -> dict[str, RewardSettings]:
    given = config.get("reward") or {}
    chosen = {name: values for name, values in given.items() if isinstance(values, Mapping) and "_target_" in values}
    for name, values in given.items():
        if not isinstance(values, Mapping):
            problems.append(
                f"reward.{name}={values!r} gives one value to all of a reward; set one of its keys: "
                f"reward.{name}.weight={values}"
            )
        elif name not in chosen:
            problems.append(
                f"reward.{name} is set, but {name} is not among the chosen rewards ({', '.join(chosen) or 'none'}); "
                f"use one of these names, or choose it too: reward=[{','.join([*chosen, name])}]"
            )
    parsed = collect(
        {f"reward.{name}": RewardSettings for name in chosen},
        {f"reward.{name}": values for name, values in chosen.items()},
    )
    return {name.removeprefix("reward."): settings for name, settings in parsed.items()}


def _unset(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _unset(value, f"{prefix}{key}.")
        elif value == "???":
            yield f"{prefix}{key}"


def _reward_problems(config: Mapping[str, Any], rewards: Mapping[str, RewardSettings]) -> list[str]:
    chosen, stage = list(config.get("reward") or {}), config.get("stage", "fit")
    if not chosen:
        return ["no reward is chosen; set for instance 'reward=[accuracy,format]'"]
    problems = []
    if stage in ("fit", "preflight") and rewards and not any(reward.weight for reward in rewards.values()):
        problems.append("every reward has weight 0, so nothing can be learned; set reward.<name>.weight above 0")
    metric = (config.get("evaluation") or {}).get("metric", "accuracy")
    if stage not in ("try_reward", "export") and metric not in chosen:
        problems.append(
            f"evaluation.metric={metric}, but the rewards are {', '.join(chosen)}; choose one of them, or add "
            f"{metric} with weight 0"
        )
    return problems


def _machine_problems(sections: Mapping[str, Settings]) -> Iterator[str]:
    """What the settings ask of this machine and of the model that it has not."""
    model, data, trainer = (sections.get(name) for name in ("model", "data", "trainer"))
    if model is not None and (problem := path_problem(model.path)):
        yield problem
    if trainer is not None and trainer.accelerator == "gpu" and not torch.cuda.is_available():
        yield "trainer.accelerator=gpu, but torch sees no GPU; set trainer.accelerator=auto"
    generated = data is not None and any(source.generator for source in data.training_sources.values())
    if generated and model is not None and model.path == TINY and data.validation > HELD_OUT_SHARE:
        yield (
            f"data.validation={data.validation}, but the tiny model was trained on all but a share of {HELD_OUT_SHARE} "
            f"of these problems; set data.validation={HELD_OUT_SHARE} or less"
        )


def _stage_problems(config: Mapping[str, Any], sections: Mapping[str, Settings]) -> Iterator[str]:
    """What a stage needs, or makes no sense of."""
    stage, resume, data = config.get("stage", "fit"), config.get("resume"), sections.get("data")
    if stage in ("evaluate", "preflight", "try_reward") and resume:
        yield f"stage={stage} does not go on from a run; drop resume, and set model.path={resume}/model for its model"
    if stage == "try_reward" and data is not None and data.path is None:
        yield "stage=try_reward judges written cases; set data.path=CASES.jsonl (prompt, completion, expected)"
    evaluation = sections.get("evaluation")
    if data is not None and evaluation is not None and not (data.validation or data.validation_path):
        if stage == "evaluate":
            yield "data.validation=0 leaves nothing to evaluate on; set it above 0, or set data.validation_path"
        elif stage == "fit" and (evaluation.enabled or evaluation.every):
            yield (
                "data.validation=0 leaves nothing to evaluate on; set it above 0, or set data.validation_path, or "
                "evaluation.enabled=false evaluation.every=0"
            )
