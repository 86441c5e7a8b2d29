"""Rewards written for other projects, unchanged.

TRL's and open-r1's functions need no adapter: r1lit's contract is TRL's. Set ``messages: true`` for those that read
``completion[0]["content"]``, and ``factory: true`` for those that make the reward (``get_...``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from r1lit.rewards import targets


class Verl:
    """A verl reward, ``compute_score(data_source, solution_str, ground_truth, extra_info)``, called row by row.

    ``data_source`` and ``extra_info`` are the columns of these names; the ground truth is the column ``ground_truth``,
    verl's own ``reward_model["ground_truth"]``, or ``answer``. Set ``rowwise: true`` beside it, so that a row that
    fails costs only itself.

    Args:
        function: dotted path of the ``compute_score`` function.
        data_source: what to pass where the rows have no such column.
        keywords: further arguments of the function.
    """

    def __init__(self, function: str, data_source: str = "", **keywords: Any):
        self._compute_score = targets.bind(targets.resolve(function), keywords)
        self._data_source = data_source

    def __call__(self, completions: list[str], **columns: list[Any]) -> list[float | None]:
        return [
            _score(
                self._compute_score(
                    data_source=row.get("data_source", self._data_source),
                    solution_str=completion,
                    ground_truth=_ground_truth(row),
                    extra_info=row.get("extra_info"),
                )
            )
            for completion, row in zip(completions, _rows(columns, len(completions)), strict=True)
        ]


def _rows(columns: Mapping[str, list[Any]], count: int) -> list[dict[str, Any]]:
    return [{key: values[row] for key, values in columns.items()} for row in range(count)]


def _ground_truth(row: Mapping[str, Any]) -> Any:
    if "ground_truth" in row:
        return row["ground_truth"]
    if isinstance(row.get("reward_model"), Mapping):
        return row["reward_model"]["ground_truth"]
    if "answer" in row:
        return row["answer"]
    raise ValueError("the rows have none of ground_truth, reward_model and answer; map one in data.columns")


def _score(result: Any) -> Any:
    return result["score"] if isinstance(result, Mapping) else result
