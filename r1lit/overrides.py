"""What a user typed, checked before Hydra sees it, so that every slip is answered with what exists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from r1lit.settings import ConfigError, quoted, suggest
from r1lit.stages.directory import OVERRIDES

IMPLIED = {"model.path": "model=local", "data.path": "data=prompts"}
"""A setting that speaks of one's own model or data selects the group member that has no tiny defaults."""

HYDRAS = ("hydra.", "hydra/")
"""How Hydra's own settings and groups begin."""


def prepare(arguments: Sequence[str], groups: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]]:
    """Turn typed arguments into Hydra's, and say everything that is wrong with those that it leaves out.

    Settings become ``++key=value``: the typed sections know which keys exist, and name the nearest one. Hydra's own
    flags, settings and groups pass as they are.

    Args:
        arguments: what stands behind the command's name.
        groups: the members of each config group.

    Returns:
        Hydra's arguments; and the problems: what cannot be parsed, and members that do not exist.

    >>> prepare(["optimizer.lr=1e-5", "algorithm=dapoo"], {"algorithm": ["dapo", "grpo"]})
    (['++optimizer.lr=1e-5'], ['algorithm=dapoo: there is no such member of algorithm; did you mean dapo?'])
    """
    given = get_args_parser().parse_known_args(arguments)[0].overrides
    flags = [argument for argument in arguments if argument not in given]
    overrides, problems = [], []
    for text in given:
        try:
            parsed = OverridesParser.create().parse_override(text)
        except HydraException as error:
            problems.append(f"{text}: {str(error).splitlines()[0]}; write key=value, in quotes where a list is meant")
            continue
        if unknown := list(_unknown_members(parsed, groups)):
            problems += unknown
            continue
        typed_setting = not (parsed.is_add() or parsed.is_delete() or parsed.is_force_add())
        if typed_setting and parsed.key_or_group not in groups and not parsed.key_or_group.startswith(HYDRAS):
            text = f"++{text}"
        overrides.append(text)
    return flags + implied(overrides) + overrides, problems


def implied(overrides: Sequence[str]) -> list[str]:
    """Group members that settings select, where none is chosen.

    >>> implied(["++model.path=Qwen/Qwen3-0.6B-Base"])
    ['model=local']
    >>> implied(["++model.path=out/model", "model=tiny"])
    []
    """
    keys = {override.lstrip("+~").split("=", 1)[0] for override in overrides}
    return [choice for key, choice in IMPLIED.items() if key in keys and choice.split("=")[0] not in keys]


def _unknown_members(override: Override, groups: Mapping[str, Sequence[str]]) -> Iterable[str]:
    group = override.key_or_group
    if group not in groups or override.is_delete():
        return
    value = override.value()
    if override.is_sweep_override():
        chosen = [str(member) for member in override.sweep_string_iterator()]
    else:
        chosen = value if isinstance(value, list) else [value]
    for member in chosen:
        if isinstance(member, str) and member not in groups[group] and not member.startswith("["):
            yield f"{group}={member}: there is no such member of {group}; {suggest(member, groups[group])}"


def resumed(arguments: list[str]) -> list[str]:
    """With ``resume=RUN``: the overrides that RUN was started with, then those typed now, into RUN's directory.

    Raises:
        ConfigError: where RUN is no run, or does not say how it was started.
    """
    runs = [argument.split("=", 1)[1] for argument in arguments if argument.startswith("resume=")]
    if not runs:
        return arguments
    directory = Path(_unquoted(runs[-1]))
    saved = directory / OVERRIDES
    if not saved.is_file():
        siblings = [str(path) for path in directory.parent.glob("*") if path.is_dir()]
        raise ConfigError([f"resume={directory} is not the directory of a run; {suggest(str(directory), siblings)}"])
    typed = {key_of(argument) for argument in arguments}
    started = yaml.safe_load(saved.read_text())
    if not isinstance(started, list):
        raise ConfigError([f"resume={directory}: {saved} is damaged, so how the run was started is not known"])
    before = [override for override in started if key_of(override) not in typed]
    now = [argument for argument in arguments if not argument.startswith("resume=")]
    place = quoted(str(directory))
    # One run of a sweep goes on alone.
    return [*before, *now, f"resume={place}", f"hydra.run.dir={place}", "hydra.mode=RUN"]


def _unquoted(text: str) -> str:
    return text[1:-1].replace('\\"', '"') if len(text) > 1 and text[0] == text[-1] == '"' else text


def key_of(override: str) -> str:
    """The setting or group that an override sets.

    >>> key_of("++optimizer.lr=1e-5")
    'optimizer.lr'
    """
    return override.lstrip("+~").split("=", 1)[0]
