from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import r1lit
from r1lit.rewards.judge import Judge, columns_of
from r1lit.rewards.language import language
from r1lit.rewards.pool import RewardPool
from r1lit.rewards.spec import RewardSettings
from r1lit.types import Group, Prompt

SPEC = {"target": "r1lit.rewards.language.language", "keywords": {}, "factory": False, "messages": False}
EN = "<think> plus four is eleven, minus three is eight </think> <answer> 8 </answer>"
ZH = "<think> 加四得十一，减三得八 </think> <answer> 8 </answer>"
HALF = "<think> plus four is eleven, 减三得八 </think> <answer> 9 </answer>"
BARE = "<answer> 8 </answer>"


def judge(completions: list[str], columns: dict, prompt="What is 7 + 4 - 3?", **keywords) -> list[float | None]:
    """As a worker does it."""
    group = {
        "prompt": prompt,
        "columns": columns,
        "completions": completions,
        "completion_ids": [[] for _ in completions],
        "truncated": [False for _ in completions],
    }
    verdict = Judge({**SPEC, "keywords": keywords}, [])(columns_of(group), list(range(len(completions))))
    assert not verdict.reasons, verdict.message
    return verdict.values


def test_the_share_of_the_columns_language():
    assert judge([EN, ZH, HALF], {"language": "en"}) == [1.0, 0.0, 0.5]
    assert judge([EN, ZH, HALF], {"language": "Chinese"}) == [0.0, 1.0, 0.5]


def test_the_prompts_language_where_there_is_no_column():
    assert judge([EN, ZH], {}) == [1.0, 0.0]
    assert judge([EN, ZH], {}, prompt="7 + 4 - 3 等于几？") == [0.0, 1.0]
    assert judge([EN, ZH], {"language": None}) == [1.0, 0.0]


def test_the_users_last_message_says_the_language():
    messages = [
        {"role": "system", "content": "Think in English, please."},
        {"role": "user", "content": "Was ist drei und vier?"},
        {"role": "assistant", "content": "Das ist sieben."},
        {"role": "user", "content": "七加四减三等于几？"},
    ]
    assert judge([EN, ZH], {}, prompt=messages) == [0.0, 1.0]
    assert judge([EN, ZH], {}, prompt=messages[:1]) == [None, None]


def test_a_target_that_nothing_says():
    assert judge([EN, BARE], {}, prompt="7 + 4 - 3") == [None, None]


def test_a_language_in_the_configuration_beats_the_column():
    assert judge([EN, ZH], {"language": "en"}, language="zh") == [0.0, 1.0]


def test_only_the_reasoning_counts():
    mixed = "<think> plus four is eleven, minus three is eight </think> <answer> 答案是八 </answer>"
    assert judge([mixed], {"language": "en"}) == [1.0]
    assert judge(["<think> plus four is eleven, minus three"], {"language": "en"}) == [1.0]
    assert judge(["plus four is eleven </think> 11"], {"language": "en"}) == [1.0]


def test_saying_less_never_pays():
    short = "<think> eight </think> <answer> 8 </answer>"
    formula = "<think> 7 + 4 - 3 = 8 </think> <answer> 8 </answer>"
    code = "<think> ```\nplus four is eleven\n``` </think> <answer> 8 </answer>"
    empty = "<think> </think> <answer> 8 </answer>"
    assert judge([short, formula, code, empty, BARE, "", "8"], {"language": "en"}) == [0.0] * 7
    assert judge([short], {"language": "en"}, min_words=1) == [1.0]


def test_only_correct_pays_for_right_answers():
    columns = {"language": "en", "answer": "8", "task": "arithmetic"}
    assert judge([EN, ZH, HALF, BARE], columns, only_correct=True) == [1.0, 0.0, 0.0, 0.0]
    assert judge([HALF], columns) == [0.5]
    assert judge([EN], {**columns, "answer": None}, only_correct=True) == [None]
    # The verifier of the row, not the look of its gold answer, judges.
    text = {"language": "en", "answer": "8.0", "verifier": "text"}
    assert judge([EN], text, only_correct=True) == [0.0]
    assert judge([EN], {**text, "verifier": "number"}, only_correct=True) == [1.0]


def test_lingua():
    assert judge([EN, ZH, HALF], {"language": "en"}, detector="lingua") == [1.0, 0.0, 0.5]


def test_called_as_trl_calls_it():
    given = {"prompts": ["What is 7 + 4 - 3?"] * 2, "completions": [EN, HALF]}
    assert language(**given) == [1.0, 0.5]
    assert language(**given, language=["en", "zh"]) == [1.0, 0.5]
    assert language(**given, language="zh") == [0.0, 0.5]


@pytest.mark.parametrize(
    ("columns", "keywords", "message"),
    [
        ({"language": "Germann"}, {}, "did you mean german"),
        ({"language": "en"}, {"detector": "linga"}, "did you mean lingua"),
        ({"language": "en"}, {"min_words": 0}, "min_words=0"),
        ({"language": "en"}, {"only_correct": True}, "add the column `answer`"),
    ],
)
def test_mistakes_are_failures_that_say_what_to_do(columns: dict, keywords: dict, message: str):
    group = {"prompt": "q", "columns": columns, "completions": [EN], "completion_ids": [[]], "truncated": [False]}
    verdict = Judge({**SPEC, "keywords": keywords}, [])(columns_of(group), [0])
    assert verdict.reasons == {0: "exception"}
    assert message in verdict.message


def test_as_the_shipped_configuration_runs_it():
    folder = Path(r1lit.__file__).parent.parent / "conf" / "reward"
    config = OmegaConf.to_container(OmegaConf.load(folder / "language.yaml"))["language"]
    settings = RewardSettings(**config)
    assert settings.weight == 0.5
    group = Group(Prompt((1,), "What is 7 + 4 - 3?", {"language": "en"}), [[1]] * 4, [EN, ZH, HALF, BARE], [False] * 4)
    with RewardPool({"language": settings}) as pool:
        (score,) = pool.score([group])
    assert score.values == {"language": [1.0, 0.0, 0.5, 0.0]}
    assert not score.failures


def test_workers_need_no_torch_for_it():
    code = "import sys, r1lit.rewards.language; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
