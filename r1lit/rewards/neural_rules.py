"""Where rewards that are models may judge: nowhere that a rule can, unless asked for by name."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Any

from r1lit.rewards.spec import RewardSettings

NEURAL = "r1lit.rewards.neural."
"""Targets that are models; other rewards that are say so in their settings."""

VERIFIED = {
    "r1lit.rewards.accuracy.accuracy": ("answer",),
    "r1lit.rewards.adapters.Verl": ("ground_truth", "reward_model", "answer"),
    "r1lit.rewards.code.Code": ("tests", "public_test_cases", "private_test_cases"),
    "r1lit.rewards.instructions.instructions": ("instruction_id_list",),
}
"""Rules that tell whether an answer is right, and the columns of which they need one for it."""

_METRIC = "accuracy"


def is_neural(reward: RewardSettings) -> bool:
    """True where a model judges.

    >>> is_neural(RewardSettings(_target_="r1lit.rewards.neural.Preference"))
    True
    >>> is_neural(RewardSettings(_target_="mine.judge", neural=True)), is_neural(RewardSettings(_target_="mine.rule"))
    (True, False)
    """
    return reward.neural or reward.dotted_path.startswith(NEURAL)


def is_verifier(name: str, reward: RewardSettings) -> bool:
    """True where a rule tells whether answers are right; a reward named ``accuracy`` is taken for one."""
    return not is_neural(reward) and (reward.dotted_path in VERIFIED or name == _METRIC)


def neural_problem(rewards: Mapping[str, RewardSettings], columns: Mapping[str, Any]) -> str | None:
    """Why a row must not be judged by one of the rewards: a model would, although a rule can; None where all is well.

    R1 trains with no neural reward on reasoning prompts: a policy learns to please the model instead of being right
    (arXiv 2501.12948, section 2.2). A reward of weight 0 trains nothing and may judge anything.

    Args:
        rewards: settings by name.
        columns: of the row.
    """
    rule = next((name for name, reward in rewards.items() if _verifies(name, reward, columns)), None)
    if rule is None:
        return None
    wrong = [
        name
        for name, reward in rewards.items()
        if is_neural(reward) and reward.weight and not reward.on_reasoning and reward.applies(columns)
    ]
    if not wrong:
        return None
    name, task = wrong[0], columns.get("task")
    shown = f" (its task is {task})" if task is not None else ""
    return (
        f"reward.{name} is a model, but this row{shown} has an answer that the rule {rule} verifies, and a policy that "
        f"is trained to please a model there learns to deceive it; route it by reward.{name}.when={{task: [general]}}, "
        f"or ask for it all the same: reward.{name}.on_reasoning=true"
    )


def _verifies(name: str, reward: RewardSettings, columns: Mapping[str, Any]) -> bool:
    needed = VERIFIED.get(reward.dotted_path, ("answer",))
    answered = any(_says(columns.get(column)) for column in needed)
    return is_verifier(name, reward) and answered and reward.applies(columns)


def _says(value: Any) -> bool:
    """True for a cell that holds something: of a table's rows without tests, the list of them is empty."""
    return value is not None and (isinstance(value, str) or not isinstance(value, Sized) or len(value) > 0)
