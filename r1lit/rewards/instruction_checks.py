"""The verifiable instructions of IFEval (arXiv 2311.07911), by the names that its data set gives them.

Where the paper's own program has quirks they are kept, so that figures can be compared; but sentences and capital words
are counted by rules of ours instead of NLTK's models, and languages told apart by `r1lit.text.languages`.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r1lit.settings import suggest
from r1lit.text.codes import language_code
from r1lit.text.languages import detect

CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
"""What a constrained response may be."""

RELATIONS: Mapping[str, Callable[[float, float], bool]] = {
    "less than": lambda count, bound: count < bound,
    "at least": lambda count, bound: count >= bound,
}

_INITIAL = re.compile(r"(?:^|[\s(\[\"'“‘])(?:[A-Za-z]\.)*[A-Za-z]\Z")
_TITLE = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|Mt|Gen|Col|Capt|Lt|Sgt|Rev|Hon|Gov|Sen|Rep|vs|Fig|No|Vol|pp|approx)\Z")
_MAY_END = re.compile(r"\b(?:etc|al|Inc|Ltd|Co|Corp|Jr|Sr|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|\d+)\Z")
# Possessive, and begun at the first mark of a run only: a long run of marks takes time that grows with its length.
_BOUNDARY = re.compile(r"(?<![.!?])([.!?]++)[\"'”’)\]*_]*+(?=\s+(?P<next>\S)|\Z)|[。！？]++[”’」』）]*+")
_CAPITAL = re.compile(r"[^\W\d_]+(?:[-'’.&][^\W_]+)*")
_FENCE = re.compile(r"\A(?:```(?:json)?)?(.*?)(?:```)?\Z", re.S | re.I)


class UnknownInstructionError(ValueError):
    """An instruction that cannot be judged: it is none of these, or lacks what it speaks of."""


def follows(text: str, instruction: str, given: Mapping[str, Any] | None) -> bool:
    """True where a text follows one instruction; an empty text follows none.

    Args:
        text: what was said.
        instruction: its name, such as ``punctuation:no_comma``.
        given: what the instruction speaks of; null values are as good as absent.

    Raises:
        UnknownInstructionError: for a name that is not in `CHECKS`, or one that lacks an argument.

    >>> follows("One two three.", "length_constraints:number_words", {"num_words": 3, "relation": "at least"})
    True
    """
    if instruction not in CHECKS:
        raise UnknownInstructionError(f"{instruction!r} is no instruction; {suggest(instruction, CHECKS)}")
    check = CHECKS[instruction]
    has = {name: value for name, value in (given or {}).items() if value is not None}
    wanted = list(inspect.signature(check).parameters)[1:]
    if missing := [name for name in wanted if name not in has]:
        raise UnknownInstructionError(
            f"{instruction} needs {', '.join(missing)}, and has {', '.join(has) or 'nothing'}"
        )
    return bool(text.strip()) and check(text, **{name: has[name] for name in wanted})


def count_sentences(text: str) -> int:
    """How many sentences a text has: the end of a line ends none, nor does the full stop of an abbreviation.

    >>> count_sentences("Dr. Smith paid 3.50 dollars, e.g. for tea, etc. Why? He was thirsty!")
    3
    """
    count, start = 0, 0
    for found in _BOUNDARY.finditer(text):
        if _ends(found[1], text[max(start, found.start() - 20) : found.start()], found["next"] or "A"):
            count += bool(re.search(r"\w", text[start : found.end()]))
            start = found.end()
    return count + bool(re.search(r"\w", text[start:]))


def _ends(marks: str | None, before: str, following: str) -> bool:
    """True where marks end a sentence, by what stands before them and the first letter behind."""
    if marks is None or marks.strip("."):
        return True
    if marks == ".":
        return not (
            _TITLE.search(before) or _INITIAL.search(before) or (_MAY_END.search(before) and following.islower())
        )
    return not following.islower()


def _compares(count: float, relation: str, bound: float) -> bool:
    if relation not in RELATIONS:
        raise UnknownInstructionError(f"relation={relation!r} is unknown; {suggest(str(relation), RELATIONS)}")
    return RELATIONS[relation](count, bound)


def _existence(text: str, keywords: Sequence[str]) -> bool:
    return all(re.search(re.escape(keyword), text, re.I) for keyword in keywords)


def _frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return _compares(len(re.findall(re.escape(keyword.strip()), text, re.I)), relation, frequency)


def _forbidden(text: str, forbidden_words: Sequence[str]) -> bool:
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.I) for word in forbidden_words)


def _letters(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _compares(text.lower().count(letter.strip().lower()), let_relation, let_frequency)


def _language(text: str, language: str) -> bool:
    try:
        wanted = language_code(language)
    except ValueError as error:
        raise UnknownInstructionError(str(error)) from error
    # A text without words is in no other language.
    return detect(text) in (wanted, None)


def _sentences(text: str, num_sentences: int, relation: str) -> bool:
    return _compares(count_sentences(text), relation, num_sentences)


def _paragraphs(text: str, num_paragraphs: int) -> bool:
    said = [bool(part.strip()) for part in text.split("***")]
    return all(said[1:-1]) and sum(said) == num_paragraphs


def _words(text: str, num_words: int, relation: str) -> bool:
    return _compares(len(re.findall(r"\w+", text)), relation, num_words)


def _nth_paragraph(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    parts = [part.strip() for part in text.split("\n\n")]
    count = sum(map(bool, parts))
    if count != num_paragraphs or not 1 <= nth_paragraph <= count or not parts[int(nth_paragraph) - 1]:
        return False
    word = parts[int(nth_paragraph) - 1].split()[0].lstrip("'").lstrip('"')
    return re.split(r"[.,?!'\"]", word)[0].lower() == first_word.lower()


def _placeholders(text: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[[^\n\[\]]*\]", text)) >= num_placeholders


def _postscript(text: str, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    spaced = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}
    return re.search(spaced.get(marker, re.escape(marker.lower())), text.lower()) is not None


def _bullets(text: str, num_bullets: int) -> bool:
    return sum(bool(re.match(r"\s*(?:\*(?!\*)|-)", line)) for line in text.split("\n")) == num_bullets


def _constrained(text: str) -> bool:
    return any(option in text for option in CONSTRAINED)


def _highlights(text: str, num_highlights: int) -> bool:
    marked = re.findall(r"\*[^\n*]*\*", text) + re.findall(r"\*\*[^\n*]*\*\*", text)
    return sum(bool(part.strip("*").strip()) for part in marked) >= num_highlights


def _sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", text)) >= num_sections


def _json(text: str) -> bool:
    try:
        json.loads(_FENCE.sub(r"\1", text.strip()))
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str) -> bool:
    lines = (line[line.find("<<") : line.rfind(">>") + 2] for line in text.split("\n") if "<<" in line and ">>" in line)
    return any(line.strip("<>").strip() for line in lines)


def _two_responses(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    said = list(filter(None, parts))
    return all(parts[1:-1]) and len(said) == 2 and said[0] != said[1]


def _repeats(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _ends_with(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _capital_words(text: str, capital_frequency: int, capital_relation: str) -> bool:
    return _compares(sum(word.isupper() for word in _CAPITAL.findall(text)), capital_relation, capital_frequency)


def _all_capitals(text: str) -> bool:
    return text.isupper() and _language(text.lower(), "en")


def _all_small(text: str) -> bool:
    return text.islower() and _language(text, "en")


def _no_comma(text: str) -> bool:
    return "," not in text


def _quoted(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


CHECKS: Mapping[str, Callable[..., bool]] = {
    "keywords:existence": _existence,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": _letters,
    "language:response_language": _language,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": _words,
    "length_constraints:nth_paragraph_first_word": _nth_paragraph,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeats,
    "startend:end_checker": _ends_with,
    "startend:quotation": _quoted,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _all_capitals,
    "change_case:english_lowercase": _all_small,
    "punctuation:no_comma": _no_comma,
}
"""What each instruction asks, by its name: of the text, and of the arguments named as in the data set."""
