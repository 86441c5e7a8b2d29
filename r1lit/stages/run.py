"""Every section of a run put together, and all that is wrong with them told at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from r1lit.callbacks.alarms import AlarmSettings, alarm_problems
from r1lit.curation.settings import CollectSettings, RejectSettings
from r1lit.data.settings import DataSettings, SourceSettings
from r1lit.data.splits import HELD_OUT_SHARE
from r1lit.distributed.launch import Launch, launched
from r1lit.models.attention import needs_cuda
from r1lit.models.loading import EMBEDDED, ModelSettings, path_problem
from r1lit.modules.settings import AlgorithmSettings, OptimizerSettings, RewardModelSettings, SFTSettings
from r1lit.rewards.spec import RewardSettings
from r1lit.rollout.settings import RolloutSettings
from r1lit.settings import ConfigError, Settings, parse, suggest
from r1lit.stages.pipeline_settings import PipelineSettings
from r1lit.stages.settings import (
    CommandSettings,
    CompletionsSettings,
    EvaluationSettings,
    LoggerSettings,
    PreflightSettings,
    TrainerSettings,
)

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
    "alarms": AlarmSettings,
    "sft": SFTSettings,
    "reward_model": RewardModelSettings,
    "collect": CollectSettings,
    "reject": RejectSettings,
    "pipeline": PipelineSettings,
}


RESUMABLE = frozenset({"fit", "sft", "reward_model", "collect", "reject", "pipeline"})
"""Stages that go on where they stopped."""

LEARNT_FROM = frozenset({"fit", "sft", "reward_model", "collect", "reject"})
"""Stages whose data, or what is made of it, a model learns from."""

SPLIT_BY = {"arithmetic": "expression", "talk": "key"}
"""The column whose hash tells a generator's test split from the rest."""

SAME_PROBLEMS = {"chain_sum": "arithmetic"}
"""Tasks of reasoning-gym that ask what a generator asks."""

UNJUDGED = frozenset({"sft", "reward_model", "export", "pipeline"})
"""Stages that can do without a reward."""


SHARED_OUT = frozenset({"fit", "sft", "reward_model", "evaluate", "preflight"})
"""Stages that several processes can run together."""


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
    alarms: AlarmSettings
    sft: SFTSettings
    reward_model: RewardModelSettings
    collect: CollectSettings
    reject: RejectSettings
    pipeline: PipelineSettings
    rewards: Mapping[str, RewardSettings]

    @property
    def evaluates(self) -> bool:
        """True where the stage measures the model on prompts."""
        return _evaluates(self.command.stage, self.evaluation)


def _evaluates(stage: str, evaluation: EvaluationSettings) -> bool:
    asked = bool(evaluation.enabled or evaluation.every)
    # Demonstrations need no gold answers, so what is held out of them measures the loss alone.
    return stage == "evaluate" or (stage == "fit" and asked) or (stage == "sft" and asked and bool(evaluation.sources))


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
    problems += alarm_problems(rewards, sections["alarms"]) if "alarms" in sections else []
    problems += _stage_problems(config, sections)
    problems += _machine_problems(sections)
    problems += _launch_problems(config.get("stage", "fit"), sections.get("trainer"), launched())
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
        return ["no reward is chosen; set for instance 'reward=[accuracy,format]'"] if stage not in UNJUDGED else []
    problems = []
    if stage in ("fit", "preflight") and rewards and not any(reward.weight for reward in rewards.values()):
        problems.append("every reward has weight 0, so nothing can be learned; set reward.<name>.weight above 0")
    metric = (config.get("evaluation") or {}).get("metric", "accuracy")
    if stage not in UNJUDGED | {"try_reward"} and metric not in chosen:
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
    cuda = torch.cuda.is_available() and (trainer is None or trainer.accelerator != "cpu")
    if model is not None and needs_cuda(model.attention) and not cuda:
        yield f"model.attention={model.attention}, but its kernel runs on CUDA alone; set model.attention=auto"
    generated = data is not None and any(source.generator for source in data.training_sources.values())
    if generated and model is not None and model.path in EMBEDDED and data.validation > HELD_OUT_SHARE:
        yield (
            f"data.validation={data.validation}, but the tiny model was trained on all but a share of {HELD_OUT_SHARE} "
            f"of these problems; set data.validation={HELD_OUT_SHARE} or less"
        )


def _launch_problems(stage: str, trainer: TrainerSettings | None, launch: Launch) -> Iterator[str]:
    """What the settings ask of the processes that were started, or cannot do with them."""
    if trainer is None:
        return
    found = f"{launch.by} has started {launch.size} processes"
    if launch.size > 1 and stage not in SHARED_OUT:
        yield f"stage={stage} is done by one process, but {found}; start it without {launch.by}"
    elif launch.size > 1 and trainer.strategy == "single":
        yield (
            f"trainer=single is one process, but {found}; set trainer=ddp (the model in each) or trainer=fsdp (in "
            f"shards over all), or start r1lit without {launch.by}"
        )
    replicas = trainer.replicas_of(launch)
    if launch.size % replicas:
        yield f"trainer.replicas={replicas} does not divide the {launch.size} processes; set a divisor"
    if trainer.accelerator != "cpu" and 0 < torch.cuda.device_count() < launch.local_size:
        yield (
            f"{launch.by} has started {launch.local_size} processes on a node with {torch.cuda.device_count()} GPUs, "
            "but each needs one of its own; start as many as there are GPUs, or set trainer.accelerator=cpu"
        )


def _stage_problems(config: Mapping[str, Any], sections: Mapping[str, Settings]) -> Iterator[str]:
    """What a stage needs, or makes no sense of."""
    stage, resume, data = config.get("stage", "fit"), config.get("resume"), sections.get("data")
    if config.get("dry_run") and stage != "pipeline":
        yield f"dry_run=true prints the plan of a chain, which stage={stage} is not; drop it"
    if stage in ("evaluate", "preflight", "try_reward") and resume:
        yield f"stage={stage} does not go on from a run; drop resume, and set model.path={resume}/model for its model"
    if stage == "try_reward" and data is not None and data.path is None:
        yield "stage=try_reward judges written cases; set data.path=CASES.jsonl (prompt, completion, expected)"
    evaluation = sections.get("evaluation")
    if data is None or evaluation is None:
        return
    if stage in LEARNT_FROM:
        yield from _split_problems(data, evaluation)
    if not _evaluates(stage, evaluation):
        return
    if not (data.validation or data.validation_path or evaluation.sources):
        off = "" if stage == "evaluate" else ", or evaluation.enabled=false evaluation.every=0"
        yield (
            "data.validation=0 leaves nothing to evaluate on; set it above 0, or set data.validation_path or "
            f"evaluation.sources{off}"
        )


def _split_problems(data: DataSettings, evaluation: EvaluationSettings) -> Iterator[str]:
    """Generated problems of a test split that would be learnt in other wordings."""
    if data.validation >= HELD_OUT_SHARE:
        return
    tests = [(name, _problems_of(s)) for name, s in evaluation.sources.items() if s.params.get("split") == "test"]
    for name, source in data.training_sources.items():
        kind, section = _problems_of(source), f"data.sources.{name}"
        measured = next((test for test, its_kind in tests if kind is not None and kind == its_kind), None)
        if measured is None or source.params.get("split") == "train":
            continue
        column = SPLIT_BY[kind]
        remedy = f"data.validation={HELD_OUT_SHARE}"
        remedy += "" if source.split_by == column else f" and {section}.split_by={column}"
        remedy += f", or {section}.params.split=train" if source.generator else ""
        yield (
            f"data.validation={data.validation}, but evaluation.sources.{measured} measures the share of "
            f"{HELD_OUT_SHARE} of these problems that split=test is, and {section} would teach them in other wordings; "
            f"set {remedy}"
        )


def _problems_of(source: SourceSettings) -> str | None:
    """The generator whose problems a source asks, if any."""
    return source.generator or SAME_PROBLEMS.get(source.reasoning_gym or "")
