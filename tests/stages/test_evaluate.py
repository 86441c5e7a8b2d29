from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from r1lit.__main__ import config_directory
from r1lit.rewards.pool import RewardPool
from r1lit.rewards.spec import RewardSettings
from r1lit.stages.evaluate import Judged, evaluate, rows, summarize
from r1lit.stages.run import read
from r1lit.stages.settings import EvaluationSettings
from r1lit.stages.setup import Workbench, workbench
from r1lit.types import Group, Prompt

Z = 1.959963984540054
WORKED = "<think> so </think> <answer> {} </answer>"


def judged(task: str | None, answers: list[str | None], correct: str, formatted: str, unjudged: int = 0, cut: int = 0):
    """A prompt's samples; ``correct`` and ``formatted`` are strings of 0 and 1; sample i has i + 1 tokens."""
    k = len(answers)
    texts = ["<think> so" if answer is None else WORKED.format(answer) for answer in answers]
    prompt = Prompt(ids=(5,), raw="q", columns={"answer": "5"} | ({"task": task} if task else {}))
    group = Group(prompt, [[7] * (i + 1) for i in range(k)], texts, [i < cut for i in range(k)])
    return Judged(group, [c == "1" for c in correct], [c == "1" for c in formatted], unjudged)


def wilson(p: float, n: float) -> list[float]:
    """Wilson's interval as it stands in the textbook."""
    centre, half = p + Z * Z / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return [(centre - half) / (1 + Z * Z / n), (centre + half) / (1 + Z * Z / n)]


def test_the_figures_by_hand():
    figures = summarize(
        [
            judged("a", ["5", "5 ", "7", "5"], "1101", "1110"),
            judged("a", ["3", "9", "9", None], "1000", "1110", cut=1),
            judged("b", [None, None, None, None], "0000", "0000", unjudged=2, cut=4),
        ]
    )
    assert figures["pass@1"] == pytest.approx((0.75 + 0.25 + 0.0) / 3)
    assert figures["pass@4"] == pytest.approx(2 / 3)
    assert figures["cons@4"] == pytest.approx(1 / 3)
    assert figures["mean_length"] == 2.5 and figures["format"] == 0.5
    assert figures["truncated"] == pytest.approx(5 / 12)
    assert (figures["unjudged"], figures["prompts"], figures["samples"]) == (2, 3, 12)
    # Three prompts of 1, 1, 0: the sample variance is 1/3, SE^2 1/9, the effective size (2/9) / (1/9) = 2.
    assert figures["pass@4_ci95"] == pytest.approx(wilson(2 / 3, 2))
    assert figures["cons@4_ci95"] == pytest.approx(wilson(1 / 3, 2))
    # .75, .25, 0: variance 7/48, SE^2 7/144, effective size (2/9) / (7/144) = 32/7.
    assert figures["ci95"] == pytest.approx(wilson(1 / 3, 32 / 7))
    tasks = figures["by_task"]
    assert list(tasks) == ["a", "b"]
    assert tasks["a"]["pass@1"] == 0.5 and tasks["a"]["prompts"] == 2 and tasks["a"]["unjudged"] == 0
    assert tasks["b"]["pass@1"] == 0.0 and tasks["b"]["ci95"] == pytest.approx([0.0, wilson(0, 1)[1]])
    json.dumps(figures, allow_nan=False)


def test_a_majority_needs_answers_and_ignores_case_and_space():
    assert judged(None, ["B", "b", "a"], "110", "111").consensus() == 1.0
    assert judged(None, ["a", "b"], "01", "11").consensus() == 0.0, "of equals the earliest counts"
    assert judged(None, [None, "5", None], "010", "010").consensus() == 1.0


def test_the_vote_is_on_what_is_answered_not_on_its_wording():
    spread = ["Adding gives \\boxed{5}", "it is \\boxed{5}", "so: 5.0", "7", "7"]
    assert judged(None, spread, "11100", "11111").consensus() == 1.0
    assert judged(None, ["7", "The answer is 7.", "5"], "001", "111").consensus() == 0.0
    assert judged(None, ["**", ".", "5"], "001", "111").consensus() == 1.0, "nothing is no vote"
    options = judged("choice", ["B. Paris", "(b)", "A"], "110", "111")
    options.group.prompt.columns["answer"] = "B"
    assert options.consensus() == 1.0


def test_what_is_not_compared_has_no_majority():
    one, other = judged("a", ["5", "5", "7"], "110", "000"), judged("code", ["x", "y", "y"], "111", "000")
    other.group.prompt.columns["verifier"] = "none"
    assert (summarize([one, other])["cons@3"], summarize([one, other])["pass@1"]) == (1.0, pytest.approx(5 / 6))
    figures = summarize([other])
    assert (figures["pass@1"], figures["pass@3"]) == (1.0, 1.0)
    assert not any(name.startswith("cons@") for name in figures)


def test_64_samples_as_the_paper_has_them():
    """AIME 2024: pass@1 is the mean over 64 samples, cons@64 the majority vote, whatever is written around it."""
    asked = {"answer": "025", "verifier": "number", "task": "aime_2024"}

    def said(right: int, wrong: dict[str, int]) -> Judged:
        answers = ["25"] * right + [answer for answer, count in wrong.items() for _ in range(count)]
        forms = (r"So \boxed{%s}.", "The answer is $%s.0$.")
        texts = [f"<think> x </think> {forms[number % 2] % answer}" for number, answer in enumerate(answers)]
        group = Group(Prompt((1,), "q", asked), [[1]] * 64, texts, [False] * 64)
        return Judged(group, [answer == "25" for answer in answers], [True] * 64, 0)

    figures = summarize([said(32, {"7": 31, "8": 1}), said(16, {"7": 24, "8": 24}), said(0, {"7": 64})])
    assert figures["pass@1"] == pytest.approx((0.5 + 0.25 + 0) / 3)
    assert figures["cons@64"] == pytest.approx(1 / 3)
    assert figures["pass@64"] == pytest.approx(2 / 3)
    assert figures["by_task"]["aime_2024"]["cons@64"] == pytest.approx(1 / 3)


def test_one_sample_a_prompt_has_no_pass_at_k_beside_pass_at_1():
    figures = summarize([judged(None, ["5"], "1", "1"), judged(None, ["6"], "0", "1")])
    assert [name for name in figures if "@" in name] == ["pass@1", "cons@1", "cons@1_ci95"]
    assert figures["pass@1"] == figures["cons@1"] == 0.5
    assert list(figures["by_task"]) == ["all"]


def test_a_row_a_sample():
    (row, *_) = rows([judged("a", ["5", "7"], "10", "11", cut=1)])
    assert row == {
        "prompt": "q",
        "expected": "5",
        "task": "a",
        "completion": WORKED.format("5"),
        "correct": True,
        "truncated": True,
        "length": 1,
        "rewards": {},
    }


def talked(task: str, texts: list[str], language: str = "en", applies: bool = False, **rewards: list[float]) -> Judged:
    prompt = Prompt(ids=(5,), raw="q", columns={"task": task, "language": language})
    group = Group(prompt, [[7]] * len(texts), texts, [False] * len(texts))
    none = [False] * len(texts)
    return Judged(group, none, none, unjudged=0, applies=applies, rewards=rewards)


def test_prompts_that_the_metric_is_not_for_count_in_other_measures_alone():
    nan = float("nan")
    figures = summarize(
        [
            judged("sums", ["5", "7"], "10", "11"),
            talked("general", ["Just do it.", "Wash it."], helpful=[0.0, 1.0], fact=[nan, nan]),
            talked("general", ["No.", "Wash it."], helpful=[1.0, 1.0], fact=[nan, nan]),
        ]
    )
    assert figures["pass@1"] == 0.5 and figures["by_task"]["sums"]["pass@1"] == 0.5
    assert "pass@1" not in figures["by_task"]["general"] and "cons@2" not in figures["by_task"]["general"]
    assert figures["rewards"] == {"helpful": 0.75}, "a reward that gave nothing has no mean"
    assert figures["thinking"] == pytest.approx(2 / 6) and figures["by_task"]["general"]["thinking"] == 0.0
    assert figures["by_task"]["general"]["language"] is None, "there is no reasoning to be in any language"
    assert figures["by_task"]["general"]["prompts"] == 2 and figures["unjudged"] == 0
    json.dumps(figures, allow_nan=False)


def test_reasoning_is_measured_by_its_language_and_by_its_second_thoughts():
    english, chinese = "plus four is eleven", "加四得十一，等等，再算"
    texts = [f"<think> {english} </think> <answer> 11 </answer>", f"<think> {chinese} </think> <answer> 11 </answer>"]
    figures = summarize([talked("sums", texts)])
    assert figures["language"] == 0.5
    assert figures["reflection"] == 1.0, "two in the second, none in the first"
    (row, _) = rows([talked("sums", texts, consistent=[1.0, float("nan")])])
    assert row["rewards"] == {"consistent": 1.0}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_directory(), version_base="1.3"):
        config = OmegaConf.to_container(compose("config", ["data.limit=200"]), resolve=True)
    with workbench(read(config, Path(tmp_path_factory.mktemp("run")))) as bench:
        yield bench


def settings(**changes) -> EvaluationSettings:
    return EvaluationSettings(**{"k": 3, "temperature": 1.0, "top_p": 1.0, "max_tokens": 64} | changes)


def test_the_tiny_model_is_judged_as_by_hand(bench):
    prompts, seen = bench.prompts.validation[:5], []
    found = evaluate(bench.sampler, bench.rewards, prompts, settings(batch_prompts=2), seed=3, advance=seen.append)
    assert seen == [2, 2, 1]
    assert [item.group.prompt for item in found] == prompts
    for item in found:
        for text, right, formatted in zip(item.group.completions, item.correct, item.formatted, strict=True):
            answer = text.partition("<answer>")[2].partition("</answer>")[0].strip()
            assert right == (answer == item.group.prompt.columns["answer"])
            assert formatted == (text.count("<think>") == 1 and text.strip().endswith("</answer>"))
    assert any(any(item.correct) for item in found) and not all(all(item.correct) for item in found)
    assert {item.task for item in found} <= {"arithmetic", "chain_sum"}


def test_the_seed_decides_and_fewer_prompts_than_a_batch_are_all_measured(bench):
    prompts = bench.prompts.validation[:3]

    def texts(seed: int) -> list[list[str]]:
        found = evaluate(bench.sampler, bench.rewards, prompts, settings(batch_prompts=64), seed)
        return [item.group.completions for item in found]

    first = texts(1)
    assert len(first) == 3 and first == texts(1) and first != texts(2)


def test_temperature_0_is_greedy_as_in_transformers(bench):
    prompts = bench.prompts.validation[:2]
    found = evaluate(bench.sampler, bench.rewards, prompts, settings(temperature=0, k=2), seed=0)
    for item in found:
        ids = torch.tensor([item.group.prompt.ids])
        expected = bench.policy.generate(ids, do_sample=False, max_new_tokens=64)[0, ids.shape[1] :].tolist()
        assert item.group.completion_ids == [expected, expected]


def test_what_no_reward_judged_is_counted_and_format_needs_no_reward(bench):
    rewards = {"accuracy": {"_target_": "r1lit.rewards.accuracy.accuracy", "when": {"task": "arithmetic"}}}
    prompts = bench.prompts.validation[:12]
    others = sum(prompt.columns["task"] != "arithmetic" for prompt in prompts)
    assert 0 < others < 12
    with RewardPool({name: RewardSettings.model_validate(spec) for name, spec in rewards.items()}) as pool:
        figures = summarize(evaluate(bench.sampler, pool, prompts, settings(), seed=0))
    assert figures["unjudged"] == 0, "the reward is not for the other prompts"
    assert "pass@1" in figures["by_task"]["arithmetic"] and "pass@1" not in figures["by_task"]["chain_sum"]
    assert 0.2 < figures["format"] <= 1.0


def test_a_prompt_without_a_gold_answer_is_counted_as_not_judged(bench):
    known, other = bench.prompts.validation[:2]
    unknown = replace(other, columns={**other.columns, "answer": None})
    figures = summarize(evaluate(bench.sampler, bench.rewards, [known, unknown], settings(), seed=0))
    assert figures["unjudged"] == 3 and figures["prompts"] == 2
