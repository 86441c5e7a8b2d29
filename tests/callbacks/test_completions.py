from __future__ import annotations

import json
import math

import pyarrow.parquet as pq
import torch

from r1lit.callbacks.completions import table
from r1lit.modules.experience import Experience
from r1lit.types import Group, Prompt, Rollout, Sampling, Scored

CHAT = [{"role": "user", "content": "零?"}]


def experience() -> Experience:
    """Two prompts, two completions each, by hand; the second reward has no verdict on the last two rows."""
    texts = [["<think> a </think> <answer> 4 </answer>", "5"], ["<think> b", "<answer> 0 </answer>"]]
    ids = [[[7, 8, 9], [7]], [[7, 8], [7, 8, 9]]]
    cut = [[False, False], [True, False]]
    asked = [Prompt((1,), "2 + 2?", {"answer": "4"}), Prompt((1,), CHAT, {"answer": ["0", "zero"]})]
    groups = tuple(Group(*parts) for parts in zip(asked, ids, texts, cut, strict=True))
    mask = torch.tensor([[i < len(row) for i in range(3)] for group in ids for row in group])
    rollout = Rollout(groups, mask.long(), mask, torch.zeros(4, 3), Sampling(max_tokens=3))
    columns = torch.tensor([[1.0, 0.5], [0.0, 0.25], [0.0, math.nan], [1.0, math.nan]])
    scored = Scored(rollout, ("accuracy", "mine"), torch.tensor([1.0, 2.0]), columns)
    return Experience(scored, torch.tensor([0, 1]), torch.tensor([1.0, -1.0, 0.0, 0.0]), mask)


def test_every_column_by_hand(tmp_path):
    pq.write_table(table(3, experience()), tmp_path / "step.parquet")
    columns = pq.read_table(tmp_path / "step.parquet").to_pydict()
    assert columns == {
        "step": [3, 3, 3, 3],
        "group": [0, 0, 1, 1],
        "prompt": ["2 + 2?", "2 + 2?", json.dumps(CHAT, ensure_ascii=False), json.dumps(CHAT, ensure_ascii=False)],
        "completion": ["<think> a </think> <answer> 4 </answer>", "5", "<think> b", "<answer> 0 </answer>"],
        "thought": ["a", None, "b", None],
        "answer": ["4", "5", None, "0"],
        "expected": ["4", "4", '["0", "zero"]', '["0", "zero"]'],
        "rewards/accuracy": [1.0, 0.0, 0.0, 1.0],
        "rewards/mine": [0.5, 0.25, None, None],
        "reward": [2.0, 0.5, 0.0, 1.0],
        "advantage": [1.0, -1.0, 0.0, 0.0],
        "trained": [True, True, False, False],
        "length": [3, 1, 2, 3],
        "truncated": [False, False, True, False],
    }
