"""Every section of a run put together, and all that is wrong with them told at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1lit.callbacks.alarms import AlarmSettings, alarm_problems
from r1lit.curation.settings import CollectSettings, RejectSettings
from r1lit.data.settings import DataSettings, SourceSettings
from r1lit.data.splits import HELD_OUT_SHARE
from r1lit.models.loading import ModelSettings
from r1lit.models.reward_model import alone_problem
from r1lit.modules.settings import AlgorithmSettings, OptimizerSettings, RewardModelSettings, SFTSettings
from r1lit.rewards.spec import RewardSettings
from r1lit.rollout.settings import RolloutSettings
from r1lit.settings import ConfigError, Settings, parse, suggest
from r1lit.stages.engine_limits import engine_problems
from r1lit.stages.machine import machine_problems
from r1lit.stages.pipeline_settings import PipelineSettings
from r1lit.stages.settings import (
    CommandSettings,
    CompletionsSettings,
    EvaluationSettings,
    LoggerSettings,
    PreflightSettings,
    ProfileSettings,
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
    "profile": ProfileSettings,
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

OF_A_SEQUENCE = ("sequence_truncate", "sequence_mask")
"""Corrections by the product of a whole completion's ratios."""

UNJUDGED = frozenset({"sft", "reward_model", "export", "pipeline"})
"""Stages that can do without a reward."""


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
    profile: ProfileSettings
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
    problems += machine_problems(config.get("stage", "fit"), sections, rewards)
    problems += _rollout_problems(sections)
    stage = config.get("stage", "fit")
    evaluates = "evaluation" in sections and _evaluates(stage, sections["evaluation"])
    problems += engine_problems(stage, evaluates, sections)
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
    stage = (config.get("profile") or {}).get("of", "fit") if stage == "profile" else stage
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


def _rollout_problems(sections: Mapping[str, Settings]) -> Iterator[str]:
    """What the sampler's log-probs cannot be used for."""
    rollout, algorithm = sections.get("rollout"), sections.get("algorithm")
    if rollout is None or algorithm is None or (rollout.kind == "transformers" and not rollout.staleness):
        return
    # Where sampling runs ahead, auto corrects each token by itself.
    refused = OF_A_SEQUENCE if rollout.staleness else ("auto", *OF_A_SEQUENCE)
    if rollout.top_p < 1 and algorithm.sampling_correction in refused:
        yield (
            f"rollout.top_p={rollout.top_p} with algorithm.sampling_correction={algorithm.sampling_correction}: what "
            "top-p cuts off is in every token's ratio, and their product fades with the length; set rollout.top_p=1, "
            "or algorithm.sampling_correction=token_truncate"
        )


def _stage_problems(config: Mapping[str, Any], sections: Mapping[str, Settings]) -> Iterator[str]:
    """What a stage needs, or makes no sense of."""
    stage, resume, data = config.get("stage", "fit"), config.get("resume"), sections.get("data")
    if config.get("dry_run") and stage != "pipeline":
        yield f"dry_run=true prints the plan of a chain, which stage={stage} is not; drop it"
    if stage in ("evaluate", "preflight", "try_reward", "profile") and resume:
        yield f"stage={stage} does not go on from a run; drop resume, and set model.path={resume}/model for its model"
    model = sections.get("model")
    if stage == "reward_model" and model is not None and (problem := alone_problem(model.lora)):
        yield problem
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
