"""Prompts made to order: reasoning-gym's tasks, and r1lit's own arithmetic and small talk."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from r1lit.data import arithmetic, talk
from r1lit.settings import suggest

GENERATORS = {"arithmetic": arithmetic.generate, "talk": talk.generate}

_EXPRESSIONS = {"chain_sum": arithmetic.chain_sum_expression}
"""For tasks that share problems with our own generator: the expression, so that both hold out the same ones."""


def generate(name: str, size: int, seed: int, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """``size`` rows of one of `GENERATORS`."""
    return iter(GENERATORS[name](size, seed, **params))


def generator_problem(name: str, params: Mapping[str, Any]) -> str | None:
    """What is wrong with a generator's parameters, by making one problem.

    >>> generator_problem("arithmetic", {"termz": [3, 5]})
    'params.termz is no parameter of arithmetic; did you mean terms?'
    """
    known = [name for name in inspect.signature(GENERATORS[name]).parameters if name not in ("count", "seed")]
    for param in params:
        if param not in known:
            return f"params.{param} is no parameter of {name}; {suggest(param, known)}"
    try:
        list(islice(generate(name, 1, 0, params), 1))
    except (TypeError, ValueError) as error:
        return f"params={dict(params)} do not suit {name}: {error}"
    return None


def reasoning_gym(task: str, size: int, seed: int, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """``size`` rows of a reasoning-gym task: prompt, answer, task, metadata, and ``expression`` for chain_sum."""
    import reasoning_gym as gym

    for entry in islice(gym.create_dataset(task, size=size, seed=seed, **params), size):
        row = {"prompt": entry["question"], "answer": entry["answer"], "task": task, "metadata": entry["metadata"]}
        yield row | ({"expression": _EXPRESSIONS[task](entry["question"])} if task in _EXPRESSIONS else {})


def reasoning_gym_problem(task: str, params: Mapping[str, Any]) -> str | None:
    """What is wrong with a reasoning-gym task's name or parameters.

    >>> reasoning_gym_problem("rush_hours", {})
    'rush_hours is no task of reasoning-gym; did you mean rush_hour?'
    """
    # Heavy, and needed by those alone who ask for it.
    from reasoning_gym.factory import DATASETS

    if task not in DATASETS:
        return f"{task} is no task of reasoning-gym; {suggest(task, DATASETS)}"
    config = DATASETS[task][1]
    known = [name for name in inspect.signature(config).parameters if name not in ("size", "seed")]
    for param in params:
        if param not in known:
            return f"params.{param} is no parameter of {task}; {suggest(param, known)}"
    try:
        made = config(**params)
        made.validate()
    except (AssertionError, TypeError, ValueError) as error:
        return f"params={dict(params)} do not suit {task}: {error}"
    return None
