"""Finding the callable that a reward's ``_target_`` names: in a plugins folder, or in an installed package."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from r1lit.rewards.spec import RewardSettings
from r1lit.settings import ConfigError, suggest

PLUGINS_VARIABLE = "R1LIT_PLUGINS"


def plugin_paths(directory: str | Path = ".") -> list[Path]:
    """The plugin folders in force: those that ``R1LIT_PLUGINS`` names, then ``plugins`` in the working directory.

    A folder's modules are imported by their own name (``plugins/my_reward.py`` is ``my_reward``), and its ``conf``
    belongs on Hydra's search path.

    Raises:
        ConfigError: where the variable names a folder that does not exist.
    """
    named = [Path(part).expanduser() for part in os.environ.get(PLUGINS_VARIABLE, "").split(os.pathsep) if part]
    if missing := [str(path) for path in named if not path.is_dir()]:
        problem = f"{PLUGINS_VARIABLE} names {', '.join(missing)}, which is no folder; mend or unset it"
        raise ConfigError([problem])
    local = Path(directory) / "plugins"
    return list(dict.fromkeys(path.resolve() for path in [*named, local] if path.is_dir()))


def resolve(target: str, paths: Iterable[str | Path] = ()) -> Any:
    """Import what a dotted path names; ``paths`` are the plugin folders, already on ``sys.path``.

    Raises:
        ValueError: for a path that leads nowhere, with what exists there.

    >>> resolve("r1lit.rewards.format.formt")
    Traceback (most recent call last):
    ...
    ValueError: r1lit.rewards.format has no 'formt'; did you mean format?
    """
    module_name, _, attribute = target.rpartition(".")
    if not module_name:
        raise ValueError(f"_target_={target!r} names no function; write module.function, e.g. my_reward.my_reward")
    module = _import(module_name, paths)
    if not hasattr(module, attribute):
        raise ValueError(f"{module_name} has no {attribute!r}; {suggest(attribute, _callables(module))}")
    return getattr(module, attribute)


def bind(target: Any, keywords: Mapping[str, Any], factory: bool = False) -> Callable[..., Any]:
    """Make the reward of a target: a class, or with ``factory`` a function, is called with the keywords once and what
    comes back is the reward; any other function gets the keywords at each call.

    Raises:
        ValueError: where the target does not take one of the keywords, or the result cannot be called.
    """
    if not callable(target):
        raise ValueError(f"{target!r} cannot be called; _target_ must name a function or a class")
    parameters = inspect.signature(target).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        settings = {field.alias or name for name, field in RewardSettings.model_fields.items()}
        known = settings | set(parameters)
        for key in keywords:
            if key not in parameters:
                raise ValueError(
                    f"{key!r} is neither a setting nor an argument of the reward; {suggest(key, known)}"
                )
    once = factory or inspect.isclass(target)
    reward = target(**keywords) if once else functools.partial(target, **keywords)
    if not callable(reward):
        raise ValueError(f"{target.__name__} made {reward!r}, which cannot be called; give the class a __call__")
    return reward


def _import(name: str, paths: Iterable[str | Path]) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A module that exists but imports a missing one is another mistake, and its own message names it.
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise
    parent, _, last = name.rpartition(".")
    if parent:
        package = _import(parent, paths)
        inside = [module.name for module in pkgutil.iter_modules(getattr(package, "__path__", []))]
        raise ValueError(f"{parent} has no module {last!r}; {suggest(last, inside)}")
    plugins = [module.name for module in pkgutil.iter_modules([str(path) for path in paths])]
    raise ValueError(
        f"there is no module {name!r}, neither installed nor in a plugins folder "
        f"({', '.join(map(str, paths)) or 'there is none'}); in the plugins {suggest(name, plugins)}"
    )


def _callables(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
