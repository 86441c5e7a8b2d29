"""What the tiny base model does when it is sampled: the figures of its model card."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import torch
from tiny.corpus import KINDS, Problem, problems
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from r1lit.text.templates import render

MAX_TOKENS = 64
BATCH = 250
STYLES = ("blurted", "stepwise", "rechecked")

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_CONTENT = r"((?:(?!</?(?:think|answer)>).)+)"
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


def held_out(count: int, seed: int) -> list[Problem]:
    """``count`` held-out problems of each kind, in chains of 3 to 5 numbers."""
    return [problem for kind in KINDS for problem in islice(problems(kind, seed, "test", (3, 5)), count)]


@torch.inference_mode()
def sample(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, asked: list[Problem], seed: int
) -> list[Answered]:
    """One completion of each problem at temperature 1, nothing cut off the distribution."""
    torch.manual_seed(seed)
    answered = []
    for start in range(0, len(asked), BATCH):
        batch = asked[start : start + BATCH]
        inputs = tokenizer([render("r1_zero", problem.prompt) for problem in batch], padding=True, return_tensors="pt")
        output = model.generate(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=MAX_TOKENS,
        )
        for problem, ids in zip(batch, output[:, inputs.input_ids.shape[1] :].tolist(), strict=True):
            ended = tokenizer.eos_token_id in ids
            ids = ids[: ids.index(tokenizer.eos_token_id) + 1] if ended else ids
            text = tokenizer.decode(ids, skip_special_tokens=True)
            answered.append(Answered(problem, text, len(ids), ended))
    return answered


def figures(answered: list[Answered]) -> dict[str, dict[str, float]]:
    """Samples, share, accuracy, format rate, mean tokens and ended share: over all, by style and by kind."""
    rows = {"all": answered}
    rows |= {style: [one for one in answered if one.style == style] for style in STYLES}
    rows |= {kind: [one for one in answered if one.problem.kind == kind] for kind in KINDS}
    return {
        name: {
            "samples": len(group),
            "share": len(group) / len(answered),
            "right": _mean(one.right for one in group),
            "formatted": _mean(one.formatted for one in group),
            "tokens": _mean(one.tokens for one in group),
            "ended": _mean(one.ended for one in group),
        }
        for name, group in rows.items()
    }


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else float("nan")
