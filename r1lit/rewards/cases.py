"""Trying rewards on written cases, before a run depends on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from r1lit.rewards.pool import GroupScore, RewardPool
from r1lit.settings import suggest
from r1lit.types import Group, Prompt

TOLERANCE = 1e-6
_OWN_KEYS = ("prompt", "completion", "expected", "truncated")


@dataclass(frozen=True)
class CaseResult:
    """What the rewards gave to one case.

    Attributes:
        prompt: the case's prompt.
        completion: the case's completion.
        expected: the values the case expects, by reward; None where the reward should abstain.
        given: the values the rewards gave, by reward; None where one abstained or failed; rewards whose ``when`` does
            not match are absent.
        failures: what went wrong, by reward: reason and message.
    """

    prompt: Any
    completion: str
    expected: dict[str, float | None] = field(default_factory=dict)
    given: dict[str, float | None] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool | None:
        """True where nothing failed and every expectation is met; None where nothing failed or was expected."""
        if self.failures:
            return False
        return (
            all(_equal(self.given.get(name), value) for name, value in self.expected.items()) if self.expected else None
        )


def try_cases(
    pool: RewardPool, cases: Iterable[Mapping[str, Any]], encode: Callable[[str, bool], list[int]] | None = None
) -> list[CaseResult]:
    """Judge each case by every reward of the pool.

    Args:
        pool: the rewards.
        cases: rows with ``prompt``, ``completion``, optionally ``expected`` (a number where one reward is tried, else
            a mapping by reward; null expects no value) and ``truncated``; other keys are columns for the rewards.
        encode: makes the token ids of a completion, told whether it is truncated (one that is not ends in EOS), for
            rewards that look at ``completion_ids``; without it they are empty.

    Raises:
        ValueError: with every malformed case, by its number from 1.
    """
    cases = list(cases)
    problems = [
        f"case {number}: {problem}" for number, case in enumerate(cases, 1) for problem in _problems(case, pool.rewards)
    ]
    if not cases:
        problems = ["there are no cases; write one JSON object a line: prompt, completion, expected"]
    if problems:
        raise ValueError("\n".join(problems))
    groups = [_group(case, encode) for case in cases]
    return [_result(case, score, pool) for case, score in zip(cases, pool.score(groups), strict=True)]


def _problems(case: Mapping[str, Any], rewards: Mapping[str, Any]) -> list[str]:
    problems = [f"it has no {key!r}" for key in ("prompt", "completion") if key not in case]
    expected = case.get("expected")
    if isinstance(expected, Mapping):
        problems += [
            f"expected names {name!r}, which is not tried; {suggest(name, rewards)}"
            for name in expected
            if name not in rewards
        ]
    elif expected is not None and len(rewards) > 1:
        problems.append(f"expected={expected!r} does not say of which reward; write {{{next(iter(rewards))!r}: ...}}")
    return problems


def _group(case: Mapping[str, Any], encode: Callable[[str, bool], list[int]] | None) -> Group:
    columns = {key: value for key, value in case.items() if key not in _OWN_KEYS}
    completion, truncated = case["completion"], bool(case.get("truncated", False))
    return Group(
        prompt=Prompt(ids=(), raw=case["prompt"], columns=columns),
        completion_ids=[encode(completion, truncated) if encode else []],
        completions=[completion],
        truncated=[truncated],
    )


def _result(case: Mapping[str, Any], score: GroupScore, pool: RewardPool) -> CaseResult:
    expected = case.get("expected")
    if "expected" in case and not isinstance(expected, Mapping):
        expected = dict.fromkeys(pool.rewards, expected)
    return CaseResult(
        prompt=case["prompt"],
        completion=case["completion"],
        expected=dict(expected or {}),
        given={name: values[0] for name, values in score.values.items()},
        failures={name: f"{reason}: {message}" for (name, reason), message in score.messages.items()},
    )


def _equal(given: float | None, expected: float | None) -> bool:
    if given is None or expected is None:
        return given is expected
    return abs(given - expected) <= TOLERANCE
