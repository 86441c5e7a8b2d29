"""The words of a text: what counts as one in each script, and what is none (code, formulas, digits, links, tags)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

UNITS = {"kana": 3, "thai": 4, "lao": 4, "khmer": 4, "burmese": 4}
"""Characters (code points, vowel signs included) that make a word where words are written without spaces: each three
of a run of kana and each four of a run of Thai begin one. A Han character is a word of its own."""

_BLOCKS: dict[str, tuple[tuple[int, int], ...]] = {
    "han": (
        (0x3005, 0x3007),
        (0x3100, 0x312F),
        (0x3400, 0x4DBF),
        (0x4E00, 0x9FFF),
        (0xF900, 0xFAFF),
        (0x20000, 0x3FFFF),
    ),
    "kana": ((0x3041, 0x30FF), (0x31F0, 0x31FF)),
    "hangul": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xAC00, 0xD7AF)),
    "latin": ((0x41, 0x24F), (0x250, 0x2AF), (0x1E00, 0x1EFF)),
    "cyrillic": ((0x400, 0x52F),),
    "greek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "armenian": ((0x530, 0x58F),),
    "georgian": ((0x10A0, 0x10FF), (0x1C90, 0x1CBF)),
    "hebrew": ((0x590, 0x5FF),),
    "arabic": ((0x600, 0x6FF), (0x750, 0x77F), (0x8A0, 0x8FF)),
    "devanagari": ((0x900, 0x97F),),
    "bengali": ((0x980, 0x9FF),),
    "gurmukhi": ((0xA00, 0xA7F),),
    "gujarati": ((0xA80, 0xAFF),),
    "oriya": ((0xB00, 0xB7F),),
    "tamil": ((0xB80, 0xBFF),),
    "telugu": ((0xC00, 0xC7F),),
    "kannada": ((0xC80, 0xCFF),),
    "malayalam": ((0xD00, 0xD7F),),
    "sinhala": ((0xD80, 0xDFF),),
    "thai": ((0xE00, 0xE7F),),
    "lao": ((0xE80, 0xEFF),),
    "tibetan": ((0xF00, 0xFFF),),
    "burmese": ((0x1000, 0x109F),),
    "ethiopic": ((0x1200, 0x137F),),
    "khmer": ((0x1780, 0x17FF),),
}
CASED = ("latin", "cyrillic", "greek")
"""The scripts with capitals, whose single letters are variables of mathematics."""
_MARKS = "\u0300-\u036f"
_JOINERS = "\u200c\u200d"


class Word(NamedTuple):
    """One word, or the words of one unspaced run.

    Attributes:
        text: as written, NFKC-normalised.
        script: a key of the script table, or ``other``.
        count: how many words it counts for.
        gap: what stands between it and the word before: 0 nothing that separates, 1 a comma, bracket or the like, 2 the
            end of a sentence or line, or what stood in lines of its own.
        operand: True where ``=``, ``+`` or another operator stands beside it.
    """

    text: str
    script: str
    count: int
    gap: int
    operand: bool


def words(text: str) -> list[Word]:
    """The words of a text, in order.

    A word is a run of letters with the apostrophes inside it; a hyphen parts two words. For scripts without spaces see
    `UNITS`. Code (fenced or in backticks), formulas, LaTeX commands, digits and identifiers with digits, underscores
    or inner capitals, function names before a bracket, links and tags are no words.

    >>> [word.text for word in words("Let's add $a+b$ to `sum_1`: 3x is 十二 in <b>all</b>.")]
    ["Let's", 'add', 'to', 'is', '十', '二', 'in', 'all']
    """
    found: list[Word] = []
    gap, operator = 2, False
    for match in _TOKENS.finditer(strip_code(unicodedata.normalize("NFKC", text))):
        kind = match.lastgroup
        if kind == "stop":
            gap, operator = 2, False
        elif kind == "pause":
            gap, operator = max(gap, 1), False
        elif kind == "operator":
            operator = True
            if found and not gap:
                found[-1] = found[-1]._replace(operand=True)
        else:
            token = match[0]
            script = _majority(token) if kind == "cased" else kind
            unit = UNITS.get(script, len(token))
            found.append(Word(token, script, -(-len(token) // unit), gap, operator))
            gap, operator = 0, False
    return found


def units(text: str) -> list[str]:
    """What repeats when a text repeats itself, in lower case: words, numbers, other signs one by one, and single
    characters where words are written without spaces.

    >>> units("Let's add 3.5 + x: 得七")
    ["let's", 'add', '3.5', '+', 'x', ':', '得', '七']
    """
    return _SIGNS.findall(unicodedata.normalize("NFKC", text).lower())


def strip_code(text: str) -> str:
    r"""A text without its code, formulas, LaTeX commands, links, tags and identifiers; text in LaTeX braces stays.

    >>> strip_code(r"the `sum` of ```f(x)``` costs $5 or $7, not $x$ or \[y\] \text{each}").split()
    ['the', 'of', 'costs', '$', 'or', '$', ',', 'not', 'or', '{each}']
    """
    for pattern, blank in _REMOVED:
        text = pattern.sub(blank, text)
    return text


def _majority(token: str) -> str:
    """The script of most letters of a word, so that one letter smuggled in from another alphabet changes nothing."""
    if token.isascii():
        return "latin"
    scripts = [next((name for name in CASED if _within(name, char)), "latin") for char in token]
    return max(CASED, key=scripts.count)


def _within(script: str, char: str) -> bool:
    return any(first <= ord(char) <= last for first, last in _BLOCKS[script])


def _letters(scripts: Iterable[str]) -> str:
    """The letters and marks of some scripts, as the inside of a character class of `re`."""
    parts = []
    for script in scripts:
        for first, last in _BLOCKS[script]:
            # All of a Han block are letters; looking at each would take longer than all else here.
            whole = script == "han" and first != 0x3005
            start = first if whole else None
            for code in () if whole else range(first, last + 2):
                if code <= last and unicodedata.category(chr(code))[0] in "LM":
                    start = code if start is None else start
                elif start is not None:
                    parts.append(_range(start, code - 1))
                    start = None
            if whole:
                parts.append(_range(first, last))
    return "".join(parts)


def _range(first: int, last: int) -> str:
    return f"\\U{first:08x}-\\U{last:08x}"


_MATHS = "equation|align|gather|multline|eqnarray|displaymath|math|split|array|cases|[pbvBV]?matrix"

_REMOVED = [
    (re.compile(pattern, flags), blank)
    for pattern, flags, blank in [
        # A block that was never closed runs to the end.
        (r"^[ \t]*~~~.*?(?:^[ \t]*~~~|\Z)|```.*?(?:```|\Z)", re.S | re.M, "\n"),
        (r"(?<!`)``(?!`)[^\n]+?(?<!`)``(?!`)|(?<!`)`(?!`)[^`\n]+`(?!`)", 0, " "),
        # Each looks no further than the next that opens: a text of nothing but openings takes no longer than others.
        (r"\$\$.+?\$\$|\\\[[^\\]*(?:\\(?![\[\]])[^\\]*)*\\\]", re.S, "\n"),
        (rf"\\begin\{{({_MATHS})\*?\}}(?:(?!\\begin\{{\1).)*?\\end\{{\1\*?\}}", re.S, "\n"),
        (r"\\\([^\\]*(?:\\(?![()])[^\\]*)*\\\)", 0, " "),
        # Inside the dollars of a formula there is no space at the edges and no digit after: amounts of money open none.
        (r"(?<![\\$])\$(?=\S)[^$\n]*?(?<=[^\s\\])\$(?!\d)", 0, " "),
        (r"(?:https?://|www\.)[!-;=?-~]+|\b[\w.+-]{1,64}@[\w-]+\.[\w.]+", re.A, " "),
        (r"""</?[A-Za-z][\w:-]*(?:\s+[\w:-]+=(?:"[^"]*"|'[^']*'|\w+))*\s*/?>|<\|[^|<>\n]{1,60}\|>""", re.A, " "),
        (r"\\[A-Za-z]+\*?", 0, " "),
        # np.array(, f(, but not number(s).
        (r"(?<![\w.])[A-Za-z][\w.]*\((?!e?s\))", re.A, " ("),
        (r"(?<!\w)(?:\w*[\d_]\w*|[a-z]+[A-Z]\w*)", re.A, " "),
    ]
]

_RUNS = [*UNITS, *(name for name in _BLOCKS if name not in {"han", *UNITS, *CASED})]
_LETTER, _INNER = _letters(CASED), _letters(CASED) + _MARKS
_TOKENS = re.compile(
    "|".join(
        [
            rf"(?P<cased>[{_LETTER}][{_INNER}]*(?:['’ʼ][{_INNER}]+)*)",
            rf"(?P<han>[{_letters(['han'])}])",
            *(rf"(?P<{name}>[{_letters([name])}][{_letters([name])}{_MARKS}{_JOINERS}]*)" for name in _RUNS),
            r"(?P<other>[^\W\d_]+)",
            r"(?P<stop>[.!?。！？।॥؟…\n])",
            r"(?P<pause>[,;:、，；：،؛()\[\]{}<>\"“”„«»「」『』《》—–|])",
            r"(?P<operator>[=+^≤≥≈→×÷∈/]|(?<!\*)\*(?!\*))",
        ]
    )
)
_UNSPACED = _letters(["han", *UNITS])
_SIGNS = re.compile(rf"\d+(?:[.,]\d+)*|[{_UNSPACED}]|[^\W\d_{_UNSPACED}]+(?:['’][^\W\d_{_UNSPACED}]+)*|\S")
