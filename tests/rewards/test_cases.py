from __future__ import annotations

from collections.abc import Iterator

import pytest

from r1lit.rewards.cases import try_cases
from r1lit.rewards.pool import RewardPool
from r1lit.rewards.spec import RewardSettings

SAMPLES = """
def first_id(completion_ids): return [ids[0] if ids else None for ids in completion_ids]
def half(completions): return [1 / 0 if "!" in text else 0.5 for text in completions]
"""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RewardPool]:
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "case_samples.py").write_text(SAMPLES)
    specs = {
        "half": {"_target_": "case_samples.half", "when": {"task": "half"}},
        "first_id": {"_target_": "case_samples.first_id"},
    }
    with RewardPool({k: RewardSettings.model_validate(v) for k, v in specs.items()}, 1, [folder]) as pool:
        yield pool


def test_expectations_are_compared(pool: RewardPool):
    rows = [
        ({"task": "half", "expected": {"half": 0.5}}, True),
        ({"task": "half", "expected": {"half": 0.4}}, False),
        ({"task": "half", "expected": {"half": None}}, False),
        ({"task": "other", "expected": {"half": None, "first_id": None}}, True),
        ({"task": "half"}, None),
        ({"task": "half", "completion": "!", "expected": {"half": None}}, False),
    ]
    results = try_cases(pool, [{"prompt": "q", "completion": "c"} | row for row, _ in rows])
    assert [result.passed for result in results] == [passed for _, passed in rows]
    assert results[0].given == {"half": 0.5, "first_id": None} and results[3].given == {"first_id": None}
    assert results[5].failures["half"].startswith("exception: ZeroDivisionError")


def test_token_ids_come_from_the_tokenizer(pool: RewardPool):
    case = {"prompt": "q", "completion": "c"}
    results = try_cases(
        pool, [case, case | {"truncated": True}], encode=lambda text, truncated: [100 + ord(text) * truncated]
    )
    assert [result.given for result in results] == [{"first_id": 100.0}, {"first_id": 199.0}]


def test_malformed_cases_are_told_together(pool: RewardPool):
    cases = [
        {"prompt": "q"},
        {"prompt": "q", "completion": "c", "expected": 1},
        {"completion": "c", "expected": {"hlaf": 1}},
    ]
    with pytest.raises(ValueError) as caught:
        try_cases(pool, cases)
    for part in (
        "case 1: it has no 'completion'",
        "case 2: expected=1 does not say",
        "case 3: it has no 'prompt'",
        "did you mean half",
    ):
        assert part in str(caught.value)
    with pytest.raises(ValueError, match="no cases"):
        try_cases(pool, [])
