"""The evaluation sets, each on a small file with the set's own columns: what is asked, and who is right."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from chat_server import Said, serving
from evaluation_rows import AIME, GPQA, IFEVAL, LIVECODEBENCH, MATH, MMLU_PRO, OPEN_ENDED
from omegaconf import OmegaConf
from transformers import AutoTokenizer

import r1lit
from r1lit.__main__ import composed, config_groups, run_directory
from r1lit.data.files import DataError
from r1lit.rewards.pool import RewardPool
from r1lit.stages.run import read
from r1lit.stages.setup import _prompts
from r1lit.types import Group

OmegaConf.register_new_resolver("r1lit.run_dir", run_directory, replace=True)
PAPER = {"temperature": 0.6, "top_p": 0.95, "max_tokens": 32768}
THOUGHT = "<think> Let me see. </think>"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(Path(r1lit.__file__).parent / "assets" / "tiny")


def run_of(name, *overrides):
    """What ``r1lit stage=evaluate evaluation=NAME`` would run."""
    config, problems = composed(["stage=evaluate", f"evaluation={name}", "model.path=some/name", *overrides])
    return read(config, Path("unused"), problems)


@pytest.fixture
def load(tmp_path, tokenizer):
    """The run of a set and its prompts, in the order of its rows; as a file of one kind or the other."""

    def load(name, rows, *overrides, parquet=False):
        path = tmp_path / ("rows.parquet" if parquet else "rows.jsonl")
        if parquet:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        run = run_of(name, f"evaluation.sources.{name}.path={path}", *overrides)
        prompts = _prompts(run, tokenizer).validation
        return run, sorted(prompts, key=lambda prompt: int(prompt.origin.rpartition(":")[2]))

    return load


def decoding(run):
    return {name: getattr(run.evaluation, name) for name in ("k", *PAPER)}


def judged(run, prompts, *said, reward=None):
    """What each of several replies to each prompt gets from the set's metric, or another reward."""
    with RewardPool(run.rewards) as pool:
        groups = [
            Group(prompt, [[1]] * len(texts), list(texts), [False] * len(texts))
            for prompt, *texts in zip(prompts, *said, strict=True)
        ]
        scores = pool.score(groups)
    assert not any(score.messages for score in scores), [score.messages for score in scores]
    return [score.values.get(reward or run.evaluation.metric) for score in scores]


@pytest.mark.parametrize("parquet", [False, True])
@pytest.mark.parametrize(
    ("name", "rows", "k", "wrong"),
    [
        ("aime_2024", AIME, 64, ["205", "26", "-1"]),
        ("math_500", MATH, 16, [r"\left( 3, \frac{\pi}{3} \right)", "p + q", r"\text{Eve}", "91"]),
    ],
)
def test_problems_are_asked_for_a_boxed_answer(load, name, rows, k, wrong, parquet):
    run, prompts = load(name, rows, parquet=parquet)
    assert decoding(run) == {"k": k, **PAPER}
    assert len(prompts) == len(rows)
    for row, prompt in zip(rows, prompts, strict=True):
        assert prompt.raw == (
            f"{row['problem']}\n\nPlease reason step by step, and put your final answer within \\boxed{{}}."
        )
        assert prompt.columns["task"] == name
    right = [rf"{THOUGHT} <answer> \boxed{{{row['answer']}}} </answer>" for row in rows]
    plain = [rf"{THOUGHT} It is $\boxed{{{row['answer']}}}$." for row in rows]
    false = [rf"{THOUGHT} <answer> \boxed{{{offered}}} </answer>" for offered in wrong]
    thought = [rf"<think> \boxed{{{row['answer']}}} </think> I cannot say." for row in rows]
    assert judged(run, prompts, right, plain, false, thought) == [[1.0, 1.0, 0.0, 0.0]] * len(rows)


@pytest.mark.parametrize("parquet", [False, True])
@pytest.mark.parametrize(
    ("name", "rows", "question", "k"),
    [("gpqa_diamond", GPQA, "Question", 64), ("mmlu_pro", MMLU_PRO, "question", 1)],
)
def test_multiple_choice_is_answered_by_a_letter(load, name, rows, question, k, parquet):
    run, prompts = load(name, rows, parquet=parquet)
    assert decoding(run) == {"k": k, **PAPER}
    right, false = [], []
    for row, prompt in zip(rows, prompts, strict=True):
        _, _, asked, options = prompt.raw.replace(".\nEnd", ".\n\nEnd").split("\n\n")
        listed = dict(line.split(") ", 1) for line in options.splitlines())
        gold = row["Correct Answer"].strip() if name == "gpqa_diamond" else row["options"][row["answer_index"]]
        assert asked == row[question]
        assert listed[prompt.columns["answer"]] == gold
        right.append(f"{THOUGHT} It is so.\nAnswer: {prompt.columns['answer']}")
        false.append(f"{THOUGHT} It is so.\nAnswer: {next(key for key, text in listed.items() if text != gold)}")
    boxed = [rf"{THOUGHT} \boxed{{{prompt.columns['answer']}}}" for prompt in prompts]
    silent = [f"{THOUGHT} All of them." for _ in prompts]
    assert judged(run, prompts, right, boxed, false, silent) == [[1.0, 1.0, 0.0, 0.0]] * len(rows)


def test_questions_of_several_fields_are_told_apart(load):
    _, prompts = load("mmlu_pro", MMLU_PRO)
    assert [prompt.columns["task"] for prompt in prompts] == ["law", "math", "law"]


def test_a_model_that_chats_is_asked_as_a_user_asks(load):
    _, prompts = load("aime_2024", AIME, "evaluation.sources.aime_2024.chat=true")
    assert [[message["role"] for message in prompt.raw] for prompt in prompts] == [["user"]] * len(AIME)
    assert prompts[0].raw[0]["content"].startswith("How long is the walk?\n\nPlease reason")


def test_rows_that_lack_something_are_told_of(load):
    broken = {name: value for name, value in GPQA[0].items() if name != "Incorrect Answer 2"}
    with pytest.raises(DataError, match="no column Incorrect Answer 2, which is asked for") as error:
        load("gpqa_diamond", [*GPQA[1:], broken])
    assert "evaluation.sources.gpqa_diamond: 1 of 5 rows are unusable (missing column 1)" in str(error.value)


def test_over_long_prompts_are_measured_by_the_sets_own_limit(load):
    rows = [AIME[0], AIME[1] | {"problem": "very " * 400 + "long"}]
    _, prompts = load("aime_2024", rows)
    assert len(prompts) == 2
    with pytest.raises(DataError, match=r"more than evaluation\.max_prompt_tokens=1000"):
        load("aime_2024", rows, "evaluation.max_prompt_tokens=1000")


def test_a_run_that_trains_on_short_prompts_may_be_measured_on_long_ones(tmp_path, tokenizer):
    long = "very " * 400
    train = [{"prompt": f"What is {number}?", "answer": number} for number in range(9)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in train))
    copy = [row | {"problem": f"{long}{row['problem']}"} for row in AIME]
    (tmp_path / "copy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in copy))
    data = [f"data.path={tmp_path}/train.jsonl", "data.max_prompt_tokens=700"]
    run = run_of("aime_2024", f"evaluation.sources.aime_2024.path={tmp_path}/copy.jsonl", "stage=fit", *data)
    prompts = _prompts(run, tokenizer)
    assert len(prompts.validation) == len(AIME) and {len(prompt.ids) > 700 for prompt in prompts.validation} == {True}
    assert len(prompts.train) + sum(source.left_out["held out"] for source in prompts.report.sources) == len(train)
    (tmp_path / "train.jsonl").write_text(json.dumps(train[0] | {"prompt": long}) + "\n")
    with pytest.raises(DataError, match=r"more than data\.max_prompt_tokens=700"):
        _prompts(run, tokenizer)


SETS = [name for name in config_groups()["evaluation"] if name not in ("held_out", "tiny")]


@pytest.mark.parametrize("name", SETS)
def test_without_the_hub_the_error_says_how_to_use_a_copy(name, tokenizer, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    judge = ["reward.win_rate.judge.base_url=http://localhost/v1", "reward.win_rate.judge.model=judge"]
    run = run_of(name, *(judge if name == "open_ended" else []))
    (source,) = run.evaluation.sources.values()
    with pytest.raises(DataError, match=rf"set evaluation\.sources\.{name}\.path=FILE_OR_FOLDER$") as error:
        _prompts(run, tokenizer)
    assert source.hub in str(error.value)


@pytest.mark.parametrize("parquet", [False, True])
def test_instructions_are_judged_by_their_own_reward(load, parquet):
    run, prompts = load("ifeval", IFEVAL, parquet=parquet)
    assert run.evaluation.metric == "instructions" and decoding(run) == {"k": 4, **PAPER}
    assert [prompt.raw for prompt in prompts] == [row["prompt"] for row in IFEVAL]
    right = [f"{THOUGHT} {text}" for text in ("Tea is hot and wet.", "Bye. The end", "Dear [name]")]
    cased = ["<think> No, not this. </think> Tea, of course:\nTea is hot and wet.", "Bye. The *end*", "[a]"]
    wrong = [f"{THOUGHT} {text}" for text in ("Tea, hot, wet, so good.", "The end, bye.", "Dear you")]
    assert judged(run, prompts, right, cased, wrong) == [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]
    loose = judged(run, prompts, right, cased, wrong, reward="instructions_loose")
    assert loose == [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]
    shares = judged(run, prompts, right, cased, wrong, reward="instructions_share")
    assert shares == [[1.0, 0.5, 0.5], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]
    # Nor does the reward that compares answers say anything here.
    assert judged(run, prompts, right, reward="accuracy") == [[None]] * 3


def test_a_set_brings_its_reward_as_a_measure_and_leaves_a_chosen_one_as_it_is(load):
    run, _ = load("ifeval", IFEVAL)
    weighty = {name: reward.weight for name, reward in run.rewards.items() if reward.weight}
    assert weighty == {"accuracy": 1.0, "format": 1.0}
    assert run.rewards["instructions"].when == {"task": "ifeval"}
    run, _ = load("ifeval", IFEVAL, "reward=[instructions]")
    assert {name: reward.weight for name, reward in run.rewards.items() if reward.weight} == {"instructions": 1}
    assert run.rewards["instructions"].when is None


@pytest.mark.parametrize("parquet", [False, True])
def test_programs_are_judged_by_running_them(load, parquet):
    run, prompts = load("livecodebench", LIVECODEBENCH, parquet=parquet)
    assert run.evaluation.metric == "code" and decoding(run) == {"k": 8, **PAPER}
    assert "standard input" in prompts[0].raw and "Add two numbers {a} and {b}." in prompts[0].raw
    assert f"```python\n{LIVECODEBENCH[1]['starter_code']}\n```" in prompts[1].raw
    right = ["a, b = map(int, input().split())\nprint(a + b)", f"{LIVECODEBENCH[1]['starter_code']}return max(items)"]
    # Right on the public test alone.
    lucky = ["input()\nprint(3)", f"{LIVECODEBENCH[1]['starter_code']}return 3"]
    said = [[f"{THOUGHT} So:\n```python\n{program}\n```" for program in programs] for programs in (right, lucky)]
    thought = [f"<think> ```python\n{program}\n``` </think> No program." for program in right]
    assert judged(run, prompts, *said, thought) == [[1.0, 0.0, 0.0]] * 2
    assert judged(run, prompts, right, reward="accuracy") == [[None]] * 2


def test_rows_whose_tests_cannot_be_read_are_told_of(load):
    with pytest.raises(DataError, match="failed check: the tests cannot be used: the private tests"):
        load("livecodebench", [*LIVECODEBENCH, LIVECODEBENCH[0] | {"private_test_cases": "gone"}])


@pytest.mark.parametrize("parquet", [False, True])
def test_open_ended_answers_are_judged_against_a_reference(load, parquet):
    def longer(body, number):
        text = body["messages"][0]["content"]
        first, second = (re.search(rf"BEGIN ANSWER {name} \w+\]\n(.*?)\n\[END", text, re.S)[1] for name in "AB")
        return Said(f"VERDICT: {'A' if len(first) >= len(second) else 'B'}")

    with serving(longer) as server:
        judge = [f"reward.win_rate.judge.base_url={server.url}", "reward.win_rate.judge.model=judge"]
        run, prompts = load("open_ended", OPEN_ENDED, *judge, parquet=parquet)
        assert run.evaluation.metric == "win_rate" and decoding(run) == {"k": 1, **PAPER}
        assert [prompt.raw for prompt in prompts] == [row["instruction"] for row in OPEN_ENDED]
        good = [f"<think> Short? </think> {row['output']} And more." for row in OPEN_ENDED]
        same = [f"<think> Long, very long, and longer. </think> {row['output']}" for row in OPEN_ENDED]
        bad = [f"{THOUGHT} No." for _ in OPEN_ENDED]
        assert judged(run, prompts, good, same, bad) == [[1.0, 0.5, 0.0]] * 3
        assert len(server.requests) == 18
        assert judged(run, prompts, good, reward="accuracy") == [[None]] * 3


def test_the_command_measures_on_a_copy_of_a_set(r1lit, tmp_path):
    (tmp_path / "copy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in MATH))
    copy = "evaluation.sources.math_500.path=copy.jsonl"
    small = ("evaluation.k=2", "evaluation.max_tokens=32", "model=tiny", "trainer.accelerator=cpu", "logger=none")
    done = r1lit("stage=evaluate", "evaluation=math_500", copy, *small)
    assert "evaluation.sources.math_500: 4 rows: 0 to train on, 4 held out" in done.stderr
    (summary,) = tmp_path.glob("runs/*/*/summary.json")
    figures = json.loads(summary.read_text())["evaluation"]
    assert (figures["prompts"], figures["samples"], figures["unjudged"]) == (4, 8, 0)
    assert set(figures["by_task"]) == {"math_500"} and {"pass@1", "pass@2", "cons@2"} <= set(figures)
    samples = [json.loads(line) for line in (summary.parent / "samples.jsonl").read_text().splitlines()]
    assert {sample["expected"] for sample in samples} == {row["answer"] for row in MATH}
    assert all("\\boxed{}" in sample["prompt"] for sample in samples)
