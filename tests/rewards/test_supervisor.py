from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from r1lit.rewards.spec import RewardSettings
from r1lit.rewards.supervisor import HOPELESS_ROWS, Lane

REWARDS = """
import time

def slow_b(completions): return [time.sleep(60) if text == "b" else 1.0 for text in completions]
def length(completions): return [len(text) for text in completions]
"""


@pytest.fixture
def lane(tmp_path: Path) -> Iterator[Lane]:
    (tmp_path / "lane_samples.py").write_text(REWARDS)
    specs = {
        name: RewardSettings.model_validate({"_target_": f"lane_samples.{name}", "timeout": 0.4}).for_worker()
        for name in ("slow_b", "length")
    }
    lane = Lane({"rewards": specs, "paths": [str(tmp_path)]})
    assert lane.load() == {}
    yield lane
    lane.stop()


def judge(lane: Lane, completions: str) -> list[tuple[str, list[float | None], list[str]]]:
    """One text a letter, judged row by row by both rewards: the reward, its values and its reasons, in order."""
    rows = range(len(completions))
    empty = {"prompt": "q", "columns": {}, "completion_ids": [[1]] * len(rows), "truncated": [False] * len(rows)}
    units = [(name, [row]) for name in ("slow_b", "length") for row in rows]
    verdicts = lane.judge(pickle.dumps(empty | {"completions": list(completions)}), units)
    pairs = list(zip(units, verdicts, strict=True))
    return [
        (
            name,
            [value for (other, _), verdict in pairs if other == name for value in verdict.values],
            [why for (other, _), verdict in pairs if other == name for why in verdict.reasons.values()],
        )
        for name in ("slow_b", "length")
    ]


def test_the_rest_of_a_group_is_given_up_where_each_row_hangs(lane: Lane):
    start = time.monotonic()
    slow, length = judge(lane, "b" * 60)
    assert slow == ("slow_b", [None] * 60, ["timeout"] * 60)
    assert length == ("length", [1] * 60, [])
    assert time.monotonic() - start < 12, "all 60 rows take 24 s"


def test_a_row_that_is_answered_keeps_the_group_judged(lane: Lane):
    slow, length = judge(lane, "a" + "b" * HOPELESS_ROWS + "a")
    assert slow == ("slow_b", [1, *[None] * HOPELESS_ROWS, 1], ["timeout"] * HOPELESS_ROWS)
    assert length == ("length", [1] * (HOPELESS_ROWS + 2), [])
