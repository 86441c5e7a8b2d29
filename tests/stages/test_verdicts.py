"""Who judges what no rule has judged, and what becomes of that."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from r1lit.curation.samples import Sample
from r1lit.curation.settings import JudgeSettings
from r1lit.rewards.chat import Reply
from r1lit.rewards.generative import GenerativeJudge
from r1lit.stages.verdicts import JudgeError, Verdicts, judge_figures
from r1lit.types import Prompt

ROW = Prompt((1,), "Why is the sky blue?", {"answer": "Rayleigh scattering"})


class Scripted:
    """A chat that says what it is told to, reply by reply, and remembers what it was asked."""

    def __init__(self, *replies: Reply):
        self.replies, self.asked = list(replies), []

    def complete(self, conversations: Sequence) -> list[Reply]:
        self.asked += conversations
        return [self.replies.pop(0) for _ in conversations]


def said(verdict: str, **known) -> Reply:
    return Reply(f"VERDICT: {verdict}", prompt_tokens=100, completion_tokens=7, **known)


def sample(text: str = "<think> a </think> <answer> light scatters </answer>", **known) -> Sample:
    return Sample(0, "tiny", text, 5, False, **known)


def decided(chat: Scripted | None, *samples: Sample, prompt: Prompt = ROW, **settings) -> tuple[Verdicts, list[Sample]]:
    verdicts = Verdicts(JudgeSettings(**settings), None if chat is None else GenerativeJudge(chat))
    return verdicts, verdicts.decide(samples, [prompt] * len(samples))


def test_only_what_no_rule_has_judged_is_asked():
    chat = Scripted(said("correct"), said("incorrect", retries=2))
    by_rule = sample(correct=False, judged_by="accuracy")
    silent = sample("<think> never closed")
    _, found = decided(chat, by_rule, sample(), silent, sample())
    assert [(s.correct, s.judged_by) for s in found] == [
        (False, "accuracy"),
        (True, "judge"),
        (False, "form"),
        (False, "judge"),
    ]
    assert len(chat.asked) == 2 and "light scatters" in chat.asked[0][0]["content"]
    assert "Rayleigh scattering" in chat.asked[0][0]["content"] and "sky blue" in chat.asked[0][0]["content"]
    assert [(s.prompt_tokens, s.completion_tokens, s.requests, s.retries) for s in found[1:]] == [
        (100, 7, 1, 0),
        (0, 0, 0, 0),
        (100, 7, 1, 2),
    ]


def test_without_a_judge_or_a_ground_truth_it_stays_open():
    _, (open_,) = decided(None, sample())
    assert (open_.correct, open_.judged_by, open_.failure) == (None, None, None)
    chat = Scripted()
    _, found = decided(chat, sample(), sample("<think> never closed"), prompt=Prompt((1,), "Write a poem.", {}))
    assert [(s.correct, s.judged_by) for s in found] == [(None, None)] * 2 and not chat.asked


def test_a_failure_is_no_verdict_and_is_counted():
    odd = Reply("maybe", prompt_tokens=100, completion_tokens=7)
    chat = Scripted(odd, Reply(None, "timeout", retries=3), said("correct"))
    verdicts, found = decided(chat, sample(), sample(), sample(), prompt_price=10, completion_price=100)
    assert [(s.correct, s.judged_by, s.failure) for s in found] == [
        (None, None, "no verdict"),
        (None, None, "timeout"),
        (True, "judge", None),
    ]
    figures = judge_figures([*found, sample(correct=True, judged_by="accuracy")], verdicts.settings)
    assert figures == {
        "asked": 3,
        "requests": 3,
        "retries": 3,
        "prompt_tokens": 200,
        "completion_tokens": 14,
        "cost": pytest.approx((200 * 10 + 14 * 100) / 1e6),
        "failures": {"no verdict": 1, "timeout": 1},
    }


def test_too_many_failures_stop_the_run():
    verdicts = Verdicts(JudgeSettings(max_failures=0.2))
    right, failed = sample(correct=True, judged_by="judge"), sample(failure="no verdict")
    verdicts.count([sample(correct=False, judged_by="accuracy")] * 50 + [failed] * 4)
    verdicts.count([right] * 16)
    with pytest.raises(JudgeError, match=r"on 5 of 21 samples \(24%; of late: no verdict 1\).*max_failures=0\.2"):
        verdicts.count([failed])
    lenient = Verdicts(JudgeSettings(max_failures=1.0))
    lenient.count([failed] * 100)
