"""The filters and preferences, on samples written by hand."""

from __future__ import annotations

from collections import Counter

import pytest

from r1lit.curation.samples import Sample
from r1lit.curation.selection import (
    NothingKeptError,
    Selector,
    by_prompt,
    drops,
    language_of,
    require_some,
    solved_prompts,
)
from r1lit.curation.settings import RejectSettings
from r1lit.types import Prompt

ASKED = Prompt((1,), "What is three plus four minus two?", {"answer": "5", "language": "en"})
STEPS = "Three plus four makes seven, and seven minus two makes five."
OTHER = "First take two away from four, which leaves two; then add three to it."
LONG = " ".join(f"In line {n} we add number {n} to what we already have." for n in range(60))


def said(thought: str = STEPS, answer: str = "5", **known) -> Sample:
    text = f"<think> {thought} </think> <answer> {answer} </answer>" if thought else f"<answer> {answer} </answer>"
    defaults = {"length": len(text), "truncated": False, "correct": True, "judged_by": "accuracy", "reward": 2.0}
    return Sample(index=0, source="tiny", text=known.pop("text", text), **{**defaults, **known})


def statuses(samples: list[Sample], prompt: Prompt = ASKED, **settings) -> list[str]:
    chosen = RejectSettings(**{"n_per_prompt": 20, "near_duplicates": None, **settings})
    return [item.status for item in Selector(chosen, chosen.style, seed=0).select(prompt, samples)]


@pytest.mark.parametrize(
    ("sample", "filter"),
    [
        (said(correct=None, judged_by=None), "no verdict"),
        (said(correct=False, truncated=True), "wrong"),
        (said(truncated=True, text="<think> so </think> 5"), "truncated"),
        (said(text="I say <think> so it is </think> <answer> 5 </answer>"), "malformed"),
        (said(text="<answer> 5 </answer>"), "malformed"),
        (said("so"), "short reasoning"),
        (said("3 + 4 - 2 = 5"), "short reasoning"),
        (said("三加四得七，减二得五，so it is five"), "mixed language"),
        (said(LONG), "long paragraph"),
        (said(f"{STEPS}\n```python\nprint(3 + 4 - 2)\n```"), "code block"),
        (said(f"{STEPS} " + "And so we go on and on. " * 30), "repetition"),
    ],
)
def test_each_filter_drops_what_it_is_for(sample, filter):
    assert statuses([said(OTHER), sample], min_words=3) == ["kept", f"dropped: {filter}"]


def test_a_sample_counts_for_the_first_filter_it_fails():
    worst = said(LONG + "```" + "三加四" * 40, correct=False, truncated=True)
    assert statuses([worst]) == ["dropped: wrong"]
    assert statuses([said(LONG + "```" + "三加四" * 400, truncated=True)]) == ["dropped: truncated"]
    assert statuses([said("三加四" * 400 + "```")]) == ["dropped: mixed language"]


def test_the_forms_that_are_accepted():
    r1 = said(text=f"<think> {STEPS} </think> It is 5.")
    bare = said(text="It is 5.")
    assert statuses([said(), r1, bare], min_words=0) == ["kept", "kept", "dropped: malformed"]
    assert statuses([said(), r1], style="r1") == ["dropped: malformed", "kept"]
    assert statuses([said(), r1], style="r1_zero") == ["kept", "dropped: malformed"]
    assert statuses([bare], style=None) == ["dropped: no reasoning"]
    assert statuses([bare], style=None, min_words=0) == ["kept"]
    with pytest.raises(ValueError, match="'r2' is no format"):
        RejectSettings(style="r2")


def test_the_language_is_the_rows_own_or_the_prompts():
    chinese = said("三加四得七，减二得五")
    prompt = Prompt((1,), "三加四减二等于几？", {"answer": "5"})
    assert language_of(prompt) == "zh"
    assert statuses([chinese, said()], prompt) == ["kept", "dropped: mixed language"]
    assert statuses([chinese, said()]) == ["dropped: mixed language", "kept"]
    messages = [{"role": "system", "content": "Answer."}, {"role": "user", "content": "三加四减二等于几？"}]
    assert language_of(Prompt((1,), messages)) == "zh"
    assert language_of(Prompt((1,), "3 + 4 - 2 = ?")) is None


def test_near_duplicates_of_kept_samples_are_dropped_whatever_comes_first():
    longer = said(f"{STEPS} That is all.")
    samples = [longer, said(OTHER), said(), said(OTHER)]
    assert statuses(samples, near_duplicates=0.7, prefer="shortest") == [
        "dropped: near-duplicate",
        "kept",
        "kept",
        "dropped: near-duplicate",
    ]
    assert statuses(samples, near_duplicates=0.7, prefer="longest")[0] == "kept"
    assert statuses(samples, near_duplicates=1.0).count("kept") == 3, "the same words alone are the same"
    assert statuses(samples).count("kept") == 4


def test_preferences():
    thoughts = [STEPS, OTHER, "Take three, add four, and from these seven take two away."]
    samples = [said(t, length=n, reward=r) for t, n, r in zip(thoughts, (30, 10, 20), (1.0, 1.5, 2.0), strict=True)]
    for prefer, best in (("shortest", 1), ("longest", 0), ("highest_reward", 2)):
        found = statuses(samples, prefer=prefer, n_per_prompt=1)
        assert found.count("dropped: surplus") == 2 and found[best] == "kept"
    # Ties go to the earliest.
    equal = [said(t, length=9) for t in thoughts]
    assert statuses(equal, prefer="shortest", n_per_prompt=2) == ["kept", "kept", "dropped: surplus"]


def test_random_choices_are_the_seeds_and_no_favourites():
    samples = [said(f"Here we go with way number {n}: {OTHER}") for n in range(4)]

    def first(seed: int, text: str) -> int:
        settings = RejectSettings(n_per_prompt=1, near_duplicates=None)
        found = Selector(settings, seed=seed).select(Prompt((1,), text, {"language": "en"}), samples)
        return [item.kept for item in found].index(True)

    chosen = [first(seed, f"question {n}") for seed in range(2) for n in range(200)]
    assert chosen == [first(seed, f"question {n}") for seed in range(2) for n in range(200)]
    assert chosen[:200] != chosen[200:]
    assert all(60 < count < 140 for count in Counter(chosen).values())


def test_prompts_that_are_always_or_never_solved():
    never, always = [said(correct=False)] * 2, [said(), said(OTHER)]
    assert statuses(never) == ["dropped: wrong"] * 2
    assert statuses(never, drop_never_solved=True) == ["dropped: never solved"] * 2
    assert statuses(always) == ["kept"] * 2
    assert statuses(always, drop_always_solved=True) == ["dropped: always solved"] * 2
    both = {"drop_never_solved": True, "drop_always_solved": True}
    assert statuses([said(), said(correct=False)], **both) == ["kept", "dropped: wrong"]
    # What nobody judged says nothing about the prompt.
    open_ = [said(), said(correct=None, judged_by=None)]
    assert statuses(open_, **both) == ["kept", "dropped: no verdict"]


def test_the_account_of_a_selection():
    selector = Selector(RejectSettings(n_per_prompt=1), "any")
    groups = [[said(), said(OTHER)], [said(correct=False)], [said(), said(correct=False)], [said(correct=None)]]
    candidates = []
    for number, samples in enumerate(groups):
        prompt = Prompt((1,), f"question {number}", {"language": "en"})
        candidates += selector.select(prompt, [Sample(**{**vars(s), "index": number}) for s in samples])
    assert drops(candidates) == {"wrong": 2, "surplus": 1, "no verdict": 1}
    assert solved_prompts(candidates) == {"always": 1, "sometimes": 1, "never": 1, "unjudged": 1}
    assert [item.pass_rate for item in candidates] == [1.0, 1.0, 0.0, 0.5, 0.5, None]
    require_some(candidates, "reject")


def test_nothing_left_names_the_largest_filter_and_what_to_do():
    samples = [said(correct=False)] * 3 + [said(truncated=True)] * 4
    candidates = Selector(RejectSettings()).select(ASKED, samples)
    with pytest.raises(NothingKeptError, match=r"none of 7 .*'truncated' \(truncated 4, wrong 3\): raise rollout"):
        require_some(candidates, "reject")
    mixed = Selector(RejectSettings()).select(ASKED, [said("三加四得七，减二得五")])
    with pytest.raises(NothingKeptError, match=r"'mixed language'.*look at reject\.readable"):
        require_some(mixed, "reject")


def test_samples_are_gathered_by_prompt_in_the_order_of_the_prompts():
    samples = [Sample(index, source, "x", 1, False) for source in "ab" for index in (2, 0)]
    assert {k: [s.source for s in v] for k, v in by_prompt(samples).items()} == {0: ["a", "b"], 2: ["a", "b"]}
    assert list(by_prompt(samples)) == [0, 2]
