"""The accuracy reward: is the final answer right? By rule, never by a model (arXiv 2501.12948, section 2.2.2)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from itertools import repeat
from typing import Any

from r1lit.rewards.expressions import same_expression
from r1lit.rewards.numbers import Quantity, parse_number
from r1lit.settings import suggest
from r1lit.text.thinking import split

BY_TASK = {
    "arithmetic": "number",
    "chain_sum": "number",
    "gsm8k": "number",
    "number": "number",
    "math": "math",
    "choice": "choice",
    "multiple_choice": "choice",
    "text": "text",
}
"""The verifier of a task; a task that is not here is judged by the look of its gold answer."""

UNVERIFIED = "none"
"""The verifier of rows that another reward judges: code, instructions, what is open-ended."""

VOTE_TAIL = 10_000
"""Characters at an answer's end in which a vote looks for what it offers: unlike the reward's, the search runs where
nothing would stop it, and on a text made of opening brackets it takes time that grows with the square."""

_DELIMITERS = [(r"\(", r"\)"), (r"\[", r"\]"), ("$$", "$$"), ("$", "$"), ("**", "**"), ("`", "`")]
_ANNOUNCED = re.compile(r"(?:\banswer(?:\s+is|\s*:)|答案(?:是|[:\uff1a])|####)\s*:?", re.I)
_SPAN = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.S)
_LETTER = re.compile(
    r"(?i:(?:the\s+)?(?:correct\s+)?(?:option|choice)\s+(?:is\s+)?)?"
    r"\(?([A-Ja-j])(?:\)|\b)\s*(?:[.):,]\s*)?(.*)",
    re.S,
)
_ANOTHER_LETTER = re.compile(
    r"\([A-J]\)|\b[A-J][).:](?:\s|$)|\b(?:or|and)\s+\(?[A-Ja-j]\)?(?:\W|$)|[,/&]\s*\(?[A-J]\)?$"
    r"|^\(?[A-Ja-j]\)?\s*(?:$|[,;/&]|(?:or|and)\b)"
)
_EDGES = " .,;:!?\"'`*“”‘’。"
_PREFIX = re.compile(r"\\?[^\W\d_](?:_\{?\w+\}?)?\s*=(?!=)\s*")


def accuracy(
    completions: list[str],
    answer: list[Any],
    answers: list[str | None] | None = None,
    prompts: list[Any] | None = None,
    task: list[str | None] | None = None,
    verifier: list[str | None] | None = None,
) -> list[float | None]:
    r"""1.0 where the answer after the reasoning is the gold one, 0.0 where it is not or there is none.

    The last box in the answer counts, else what the answer announces ("the answer is"), else all of it.

    Args:
        completions: N texts.
        answer: N gold answers; a row without one (None) is not judged.
        answers: N answers cut out of the completions, where that was done already.
        prompts: N prompts; an expression that merely stands in the prompt is no answer.
        task: N task names, which choose the verifier (``BY_TASK``).
        verifier: N names among ``math, number, choice, text``; they win over the task. A row of verifier ``none`` is
            not judged.

    Raises:
        ValueError: for a verifier that does not exist.

    >>> accuracy(["<think> 42? </think> <answer> 41 </answer>", r"so </think> \boxed{41} no, \boxed{42}"], [42, "42"])
    [0.0, 1.0]
    """
    finals = [split(text).answer for text in completions] if answers is None else answers
    rows = zip(finals, answer, prompts or repeat(""), task or repeat(None), verifier or repeat(None), strict=False)
    return [_judge(*row) for row in rows]


def choose_verifier(gold: str, task: str | None = None, verifier: str | None = None) -> str:
    """The verifier of a row: the one it names, else its task's, else the one its gold answer looks like.

    Raises:
        ValueError: for a verifier that does not exist.

    >>> choose_verifier("3/4"), choose_verifier("(B)"), choose_verifier("x^2"), choose_verifier("Paris")
    ('number', 'choice', 'math', 'text')
    """
    if verifier:
        if verifier not in VERIFIERS:
            raise ValueError(f"verifier={verifier!r} does not exist; {suggest(verifier, VERIFIERS)}")
        return verifier
    if task in BY_TASK:
        return BY_TASK[task]
    if parse_number(gold):
        return "number"
    if re.fullmatch(r"\(?[A-J]\)?\.?", gold):
        return "choice"
    return "math" if re.search(r"[\\^=<>+*/\[{]|\d\s*[a-z]\b|\d\s*,\s*-?\d", gold) else "text"


def gold_text(answer: Any) -> str:
    """A gold answer as its verifier compares it: what its last box or ``####`` holds, else all of it."""
    return candidate(str(answer).strip())


def candidate(answer: str) -> str:
    r"""What an answer finally offers, without the words and signs around it.

    >>> candidate(r"So it is $\boxed{\frac{1}{2}}$."), candidate("The answer is **42**."), candidate("6 * 7 = 42")
    ('\\frac{1}{2}', '42', '6 * 7 = 42')
    """
    boxed = _last_box(answer)
    if boxed is None:
        *_, answer = _ANNOUNCED.split(answer)
        spans, around = _SPAN.findall(answer), _SPAN.sub("", answer)
        # A formula in a sentence is its answer; beside a second one, or a number, it cannot be told which.
        alone = len(spans) == 1 and re.search(r"[^\W\d_]{2}", around) and not re.search(r"\d", around)
        boxed = next(filter(None, spans[0])) if alone else answer
    return _undress(boxed)


def vote_key(answer: str, gold: Any = None, task: str | None = None, verifier: str | None = None) -> str:
    r"""What answers that offer the same thing have in common, for a majority vote: the number's value, the letter
    where the gold answer is a choice, else the normalised text; ``""`` where nothing is offered.

    Units are left out, as the number verifier forgives a missing one.

    >>> [vote_key(text) for text in (r"Adding gives \boxed{\frac{1}{2}}", "it is $0.5$", "The answer is Paris.")]
    ['1/2', '1/2', 'paris']
    >>> vote_key("(b)", gold="B"), vote_key("B. Paris", gold="B")
    ('B', 'B')
    """
    offered = candidate(answer[-VOTE_TAIL:])
    # Another reward than accuracy may judge, to which a column of this name means something else.
    verifier = verifier if verifier in VERIFIERS else None
    kind = "math" if gold is None else choose_verifier(gold_text(gold), task, verifier)
    if kind == "choice":
        return read_choice(offered) or _normalised(offered)
    number = None if kind == "text" else _read_number(offered)
    return str(number.value) if number else _normalised(offered)


def _judge(final: str | None, answer: Any, prompt: Any, task: str | None, verifier: str | None) -> float | None:
    if answer is None or verifier == UNVERIFIED:
        return None
    gold = gold_text(answer)
    verify = VERIFIERS[choose_verifier(gold, task, verifier)]
    return 0.0 if final is None else float(verify(gold, candidate(final), _task_text(prompt)))


def _math(gold: str, offered: str, task: str) -> bool:
    return _number(gold, offered, task) if parse_number(gold) else same_expression(gold, offered, task)


def _number(gold: str, offered: str, task: str) -> bool:
    wanted, given = parse_number(gold), _read_number(offered)
    return bool(wanted and given and wanted.matches(given))


def _read_number(offered: str) -> Quantity | None:
    return parse_number(_PREFIX.sub("", offered, count=1))


def _choice(gold: str, offered: str, task: str) -> bool:
    return (letter := read_choice(gold)) is not None and letter == read_choice(offered)


def _text(gold: str, offered: str, task: str) -> bool:
    return _normalised(gold) == _normalised(offered)


VERIFIERS: dict[str, Callable[[str, str, str], bool]] = {
    "math": _math,
    "number": _number,
    "choice": _choice,
    "text": _text,
}
"""Whether an offered answer is the gold one, given the task's text."""


def read_choice(text: str) -> str | None:
    """The one letter that is chosen, in capitals; None where there is none, or more than one.

    >>> [read_choice(text) for text in ("(b)", "B. Paris", "option C", "A or B", "Because")]
    ['B', 'B', 'C', None, None]
    """
    text = re.sub(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}", r"\1", text).replace("**", "").strip()
    found = _LETTER.fullmatch(text)
    if not found or _ANOTHER_LETTER.search(found[2]):
        return None
    # "A dog" begins with an article; "A. dog" and "(A) dog" name a choice.
    named = not found[2] or text[found.start(1) + 1 : found.start(1) + 2] in (".", ")", ":", ",")
    return found[1].upper() if named else None


def _last_box(text: str) -> str | None:
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    start, depth = text.index("{", start), 0
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start + 1 : end]
    return text[start + 1 :]


def _undress(text: str) -> str:
    before = None
    while text != before:
        before = text
        text = text.strip().rstrip(".。").strip()
        for opening, closing in _DELIMITERS:
            inside = text[len(opening) : len(text) - len(closing)]
            if (
                len(text) > len(opening + closing)
                and text.startswith(opening)
                and text.endswith(closing)
                and opening not in inside
            ):
                text = inside
    return text


def _normalised(text: str) -> str:
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text)
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_EDGES)


def _task_text(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    return " ".join(str(message.get("content", "")) for message in prompt if isinstance(message, Mapping))
