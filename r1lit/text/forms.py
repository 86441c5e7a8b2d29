"""Reasoning and answer brought into a stated form, and texts checked against that form."""

from __future__ import annotations

import re
from collections.abc import Mapping

from r1lit.text.thinking import CLOSE_ANSWER, CLOSE_THINK, OPEN_ANSWER, OPEN_THINK

THOUGHT, FINALS = "{thought}", ("{answer}", "{summary}")

_TAG = re.compile("|".join(map(re.escape, (OPEN_THINK, CLOSE_THINK, OPEN_ANSWER, CLOSE_ANSWER))))
# Control tokens of the usual tokenizers, which a decoded completion spells out.
_CONTROL = re.compile(r"<\|[^|<>\n]{1,60}\|>|<｜[^｜<>\n]{1,60}｜>|</?s>|<(?:start|end)_of_turn>")
_PLACE = re.compile(r"\{(?:thought|answer|summary)\}")


def form_problem(form: str) -> str | None:
    """What is wrong with a form such as ``<think> {thought} </think> <answer> {answer} </answer>``.

    >>> form_problem("<think> {thought} </think> {summary}")
    >>> form_problem("{thought}")
    'it needs {answer} or {summary} after {thought}, each once'
    """
    places = _PLACE.findall(form)
    if places[:1] != [THOUGHT] or len(places) != 2 or places[1] not in FINALS:
        return "it needs {answer} or {summary} after {thought}, each once"
    between = form.split(THOUGHT)[1].split(places[1])[0]
    return None if between.strip() else "something must stand between the thought and what follows, such as </think>"


def fill(form: str, thought: str, final: str) -> str:
    """Put a thought and what finally is said (answer or summary) into a form.

    >>> fill("<think>{thought}</think>{answer}", "{answer}?", "4")
    '<think>{answer}?</think>4'
    """
    texts: Mapping[str, str] = {THOUGHT: thought, **dict.fromkeys(FINALS, final)}
    return _PLACE.sub(lambda found: texts[found[0]], form)


def parse_form(form: str, text: str) -> tuple[str, str] | None:
    """The thought and what finally is said in a text of this form; None where it has not exactly this form.

    White space may differ; neither part may be empty, nor hold a tag of reasoning or answer.

    >>> form = "<think> {thought} </think> <answer> {answer} </answer>"
    >>> parse_form(form, "<think>2 and 2</think>\\n<answer>4</answer>")
    ('2 and 2', '4')
    >>> parse_form(form, "<think> so </think> <think> 4 </think> <answer> 4 </answer>")
    """
    parts = [r"\s*".join(map(re.escape, part.split())) for part in _PLACE.split(form)]
    head, middle, tail = (rf"\s*{part}\s*" if part else r"\s*" for part in parts)
    found = re.fullmatch(f"{head}(.*?){middle}(.*?){tail}", text, re.S)
    if not found or not all(part.strip() and not _TAG.search(part) for part in found.groups()):
        return None
    return found[1].strip(), found[2].strip()


def clean(text: str) -> str:
    """A text without tags and control tokens, blanks at the ends of lines, runs of blanks, and runs of empty lines.

    >>> clean("<think>  2  and 2,  \\n\\n\\n\\nso 4<|im_end|>")
    '2 and 2,\\n\\nso 4'
    """
    text = _CONTROL.sub(" ", _TAG.sub(" ", text)).replace("\r\n", "\n")
    # Blanks at the beginning of a line may be meant: lists and code.
    lines = [re.sub(r"(?<=\S)[ \t]{2,}", " ", line).rstrip() for line in text.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
