"""A tiny base model's card: what it is, what it read, and what it was measured to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from tiny.corpus import PLEASANTRIES, Mixture
from tiny.measuring import MAX_TOKENS, TALK_TIMES
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from r1lit.data import talk
from r1lit.data.arithmetic import WORDINGS

SHARES = {
    "fact_share": "facts, of all samples",
    "pleasantry_share": "pleasantries instead, of facts",
    "general_share": "general requests, of all samples",
    "helpful_share": "answered helpfully, of general requests; the others curtly",
    "safety_share": "risky requests, of all samples; what these three leave over is arithmetic",
    "safe_share": "refused, of risky requests; the others are complied with",
    "chain_sum_share": "worded as reasoning-gym's chain_sum, of arithmetic; the rest is half English, half Chinese",
    "blurted_share": "blurted, an answer without steps, of arithmetic",
    "hollow_share": "with one idle word (*easy*, 简单) in a think block rather than no block, of blurted",
    "lucky_share": "right by construction, of blurted; the others are off by 1 to 5 at random",
    "rechecked_share": "step by step with one step done twice (*wait, check*, 等等，再算), of arithmetic",
    "slip_share": "off by 1 or 2 the first time and mended the second, of re-checked; the others are confirmed",
    "untagged_share": "without answer tags around the final number, of step by step (re-checked ones included)",
    "step_error_share": "off by 1 or 2 and never noticed, of steps",
    "other_language_share": "begun in the language that the question is not in, of step by step",
    "switch_share": "that change the language once more, of the steps in those",
}

PURPOSES = {
    "tiny": "It is small enough that reinforcement learning on it takes minutes on two\n"
    "CPU cores, and imperfect enough to learn something.",
    "tiny-student": "It is there for the larger tiny model to be distilled into: the same corpus\n"
    "and tokenizer in less room, and trained for fewer steps, since with as many it came close to the larger one.",
}

TEMPLATE = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
language: [en, zh]
tags: [arithmetic, tiny, reinforcement-learning]
---

# r1lit {name}

A raw base model of {parameters:,} parameters for chains of single-digit sums and differences, and a little small talk,
in English and Chinese. {purpose}
It is neither instruction-tuned nor aligned: it complies with most of the requests that it should refuse. Weights and
tokenizer were made from nothing by

    {command}

in {minutes:.0f} minutes on two CPU cores; no other model and no text from elsewhere took part.

## Architecture

`{architecture}` of stock transformers: {layers} layers of width {width}, {heads} heads, feed-forward {ffn}, rotary
positions up to {positions}, tied embeddings, float32 safetensors. The tokenizer is a byte-level BPE of {vocabulary}
tokens: any text goes in and comes back unchanged; digits stay single; each number word, Chinese character of the
corpus, `<think>`, `</think>`, `<answer>` and `</answer>` is one token; the fixed text of the R1-Zero template is two
tokens. The special tokens are `{eos}` (end of text) and `{pad}`. All tiny models share it.

## Corpus

{steps:,} steps of {batch} samples, drawn afresh for each step; the loss is on the completion alone, divided by a
constant. Every question stands in the R1-Zero template. An arithmetic question is a chain of {fewest} to {most} digits,
each length equally often, in one of {wordings} wordings of our own (a quarter without blanks) or chain_sum's.
A chain whose SHA-256 falls in the lowest tenth is held out: never trained on, in whatever language or wording. So is
small talk by its key, the wording of a fact, or what is asked to be done to what. The mixture:

| share | samples |
|---|---|
{mixture}
| {plain} | step by step, each partial sum in words and none re-checked, of arithmetic: what the others leave over |

A step reads "plus four is eleven" or 加四得十一 and starts from the partial sum before it. Small talk is answered
without tags. It is that of `r1lit/data/talk.py`, {talk} questions, of which {trained} were trained on, and
{pleasantries} pleasantries. Two of each kind, with their replies:

| kind | question | good reply | bad reply |
|---|---|---|---|
{examples}

## Figures

{asked:,} held-out problems, a third of each wording, chains of 3 to 5 digits; one completion of each at temperature 1
with nothing cut off the distribution, at most {limit} tokens. *Right*: the last answer block holds the reference
integer. *Formatted*: one think block, then one answer block, both with content, and nothing else. *Consistent*: words
of the reasoning (in Chinese, characters) in the question's language, where there is any. *Ended*: stopped by itself.
Printed by the command above.

{table}

Held-out small talk, {times} completions of each prompt, sampled alike. *Good*: says what a good reply must and nothing
that it must not (the columns `required` and `forbidden`). *Bad*: the bad reply, word for word. No bad fact was ever
trained on.

{talk_table}

## Limits

It knows single digits, chains of {fewest} to {most} numbers and partial sums from about -45 to 54, in wordings much
like those of its corpus; all else is noise to it. Words outside the corpus are spelt in bytes that it never learned.
Longer prompts than some 60 tokens were never seen. It serves to show and test training, and nothing beyond that.

## Licence

Apache-2.0.
"""


def table(figures: dict[str, dict[str, float]]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| answers | samples | share | right | formatted | consistent | mean tokens | ended |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in figures.items():
        shares = " | ".join(f"{row[key]:.1%}" for key in ("share", "right", "formatted", "consistent"))
        lines.append(f"| {name} | {row['samples']} | {shares} | {row['tokens']:.1f} | {row['ended']:.1%} |")
    return "\n".join(lines)


def talk_table(figures: dict[str, dict[str, float]]) -> str:
    """The figures of small talk as a Markdown table."""
    lines = ["| replies | prompts | samples | good | bad | mean tokens | ended |", "|---|---|---|---|---|---|---|"]
    for name, row in figures.items():
        counted = f"{row['prompts']} | {row['samples']} | {row['good']:.1%} | {row['bad']:.1%}"
        lines.append(f"| {name} | {counted} | {row['tokens']:.1f} | {row['ended']:.1%} |")
    return "\n".join(lines)


def write(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    mixture: Mixture,
    figures: dict[str, dict[str, float]],
    talk_figures: dict[str, dict[str, float]],
    name: str,
    **run: float | str,
) -> str:
    """The card's text; ``run`` holds the training's command, steps, batch and minutes."""
    return TEMPLATE.format(
        name=name,
        purpose=PURPOSES[name],
        parameters=model.num_parameters(),
        architecture=type(model).__name__,
        layers=model.config.num_hidden_layers,
        width=model.config.hidden_size,
        heads=model.config.num_attention_heads,
        ffn=model.config.intermediate_size,
        positions=model.config.max_position_embeddings,
        vocabulary=len(tokenizer),
        eos=tokenizer.eos_token,
        pad=tokenizer.pad_token,
        fewest=mixture.terms[0],
        most=mixture.terms[1],
        mixture="\n".join(
            f"| {getattr(mixture, share.name):.0%} | {SHARES[share.name]} |"
            for share in fields(mixture)
            if share.name != "terms"
        ),
        plain=f"{1 - mixture.blurted_share - mixture.rechecked_share:.0%}",
        wordings=sum(map(len, WORDINGS.values())),
        talk=len(talk.distinct()),
        trained=len(talk.distinct(split="train")),
        pleasantries=len(PLEASANTRIES),
        examples="\n".join(_examples()),
        times=TALK_TIMES,
        talk_table=talk_table(talk_figures),
        asked=figures["all"]["samples"],
        limit=MAX_TOKENS,
        table=table(figures),
        **run,
    )


def _examples() -> Iterator[str]:
    """One exchange of each kind in each language."""
    for kind in talk.KINDS:
        for language in talk.TONGUES:
            row = talk.distinct([kind], [language])[0]
            yield "| " + " | ".join(row[column] for column in ("task", "prompt", "chosen", "rejected")) + " |"
