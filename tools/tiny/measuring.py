"""What a tiny base model does when it is sampled: the figures of its model card."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from tiny.corpus import KINDS, Problem, problems
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from r1lit.data import talk
from r1lit.rewards.phrases import phrases
from r1lit.text.templates import render
from r1lit.text.thinking import split

MAX_TOKENS = 64
BATCH = 250
TALK_TIMES = 40
STYLES = ("blurted", "stepwise", "rechecked")

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_CONTENT = r"((?:(?!</?(?:think|answer)>).)+)"
_WORDS = {"en": re.compile("[A-Za-z]+"), "zh": re.compile("[\u4e00-\u9fff]")}
_FORMAT = re.compile(rf"<think>{_CONTENT}</think>\s*<answer>{_CONTENT}</answer>", re.DOTALL)


@dataclass(frozen=True)
class Answered:
    """One sampled completion and what became of it."""

    problem: Problem
    text: str
    tokens: int
    ended: bool

    @property
    def right(self) -> bool:
        """True where the last answer block holds the reference integer."""
        blocks = _ANSWER.findall(self.text)
        return bool(blocks) and blocks[-1].strip() == str(self.problem.answer)

    @property
    def formatted(self) -> bool:
        """True where one think block and one answer block, both with content, are all there is."""
        found = _FORMAT.fullmatch(self.text.strip())
        return found is not None and all(part.strip() for part in found.groups())

    @property
    def style(self) -> str:
        if "wait" in self.text or "等等" in self.text:
            return "rechecked"
        return "stepwise" if " is " in self.text or "得" in self.text else "blurted"

    @property
    def consistency(self) -> float | None:
        """Share of the reasoning's words (in Chinese, characters) that are in the question's language, if any are."""
        counts = {language: len(word.findall(split(self.text).thought or "")) for language, word in _WORDS.items()}
        return counts[self.problem.language] / sum(counts.values()) if sum(counts.values()) else None


@dataclass(frozen=True)
class Replied:
    """One sampled reply to small talk: what was asked, and what came."""

    row: dict[str, Any]
    text: str
    tokens: int
    ended: bool

    @property
    def good(self) -> bool:
        """True where the reply says what a good one must and nothing that it must not."""
        return phrases([self.text], [self.row["required"]], [self.row["forbidden"]]) == [1.0]

    @property
    def bad(self) -> bool:
        """True where it is, word for word, the bad reply that the corpus has."""
        return self.text.strip() == self.row["rejected"]


def held_out(count: int, seed: int) -> list[Problem]:
    """``count`` held-out problems of each kind, in chains of 3 to 5 numbers."""
    return [problem for kind in KINDS for problem in islice(problems(kind, seed, "test", (3, 5)), count)]


def held_out_talk() -> list[dict[str, Any]]:
    """Every row of small talk that is held out."""
    return talk.distinct(split="test")


def sample(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, asked: list[Problem], seed: int
) -> list[Answered]:
    """One completion of each problem."""
    completed = complete(model, tokenizer, [problem.prompt for problem in asked], seed)
    return [Answered(problem, *rest) for problem, rest in zip(asked, completed, strict=True)]


def sample_talk(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: list[dict[str, Any]], times: int, seed: int
) -> list[Replied]:
    """So many replies to each row."""
    asked = [row for row in rows for _ in range(times)]
    completed = complete(model, tokenizer, [row["prompt"] for row in asked], seed)
    return [Replied(row, *rest) for row, rest in zip(asked, completed, strict=True)]


@torch.inference_mode()
def complete(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, questions: list[str], seed: int
) -> list[tuple[str, int, bool]]:
    """A completion of each question at temperature 1, nothing cut off the distribution: text, tokens, and whether it
    ended by itself."""
    torch.manual_seed(seed)
    completed = []
    for start in range(0, len(questions), BATCH):
        batch = [render("r1_zero", question) for question in questions[start : start + BATCH]]
        inputs = tokenizer(batch, padding=True, return_tensors="pt")
        output = model.generate(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=MAX_TOKENS,
        )
        for ids in output[:, inputs.input_ids.shape[1] :].tolist():
            ended = tokenizer.eos_token_id in ids
            ids = ids[: ids.index(tokenizer.eos_token_id) + 1] if ended else ids
            completed.append((tokenizer.decode(ids, skip_special_tokens=True), len(ids), ended))
    return completed


def figures(answered: list[Answered]) -> dict[str, dict[str, float]]:
    """Samples, share, accuracy, format rate, consistency, mean tokens, ended: over all, by style and by kind."""
    rows = {"all": answered}
    rows |= {style: [one for one in answered if one.style == style] for style in STYLES}
    rows |= {kind: [one for one in answered if one.problem.kind == kind] for kind in KINDS}
    return {
        name: {
            "samples": len(group),
            "share": len(group) / len(answered),
            "right": _mean(one.right for one in group),
            "formatted": _mean(one.formatted for one in group),
            "consistent": _mean(one.consistency for one in group if one.consistency is not None),
            "tokens": _mean(one.tokens for one in group),
            "ended": _mean(one.ended for one in group),
        }
        for name, group in rows.items()
    }


def talk_figures(replied: list[Replied]) -> dict[str, dict[str, float]]:
    """Distinct prompts, samples, share of good and of bad replies, mean tokens and ended share, by kind."""
    groups = {kind: [one for one in replied if one.row["task"] == kind] for kind in talk.KINDS}
    return {
        kind: {
            "prompts": len({one.row["prompt"] for one in group}),
            "samples": len(group),
            "good": _mean(one.good for one in group),
            "bad": _mean(one.bad for one in group),
            "tokens": _mean(one.tokens for one in group),
            "ended": _mean(one.ended for one in group),
        }
        for kind, group in groups.items()
    }


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else float("nan")
