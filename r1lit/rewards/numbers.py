"""Reading exact numbers as people and models write them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

# A longer number is no answer to a question, and converting one takes time that grows with its square.
DIGITS_LIMIT = 200
EXPONENT_LIMIT = 300

_DIGITS = r"\d{1,3}(?:(?:,|\{,\}|\\,)\d{3})+|\d+"
_NUMBER = rf"(?:(?:{_DIGITS})(?:\.\d*)?|\.\d+)"
_FORM = re.compile(
    rf"(?P<sign>[+-]?)\s*(?P<currency>\\?[$€£¥])?\s*(?P<inner>[+-]?)\s*(?:"
    rf"\\[dt]?frac\s*(?:\{{\s*(?P<top>[+-]?\s*{_NUMBER})\s*\}}\s*\{{\s*(?P<bottom>[+-]?\s*{_NUMBER})\s*\}}"
    rf"|(?P<top1>\d)\s*(?P<bottom1>\d))"
    rf"|(?P<value>{_NUMBER})"
    rf"(?:\s*/\s*(?P<over>{_NUMBER})"
    rf"|\s*(?:\\times|\\cdot|×|\*|x)\s*10\s*(?:\^|\*\*)\s*\{{?\s*(?P<power>[+-]?\d+)\s*\}}?|[eE](?P<exponent>[+-]?\d+))?"
    rf")\s*(?P<unit>.*)"
)
# Short words are units only where they are known ones: 3x and 2pi are expressions.
_UNIT_NAME = (
    r"(?:[mgshdlLVWJNKAC]|[kcmn]m|[kmµ]g|[mc][lL]|[mnµ]s|[kM]?Hz|k?Pa|kJ|k?W|hr|ft|in|lb|oz|mi|yd|am|pm"
    r"|[\u4e00-\u9fff]+|(?!sqrt|sin|cos|tan|log|exp)[^\W\d_]{3,})"
)
_UNIT_WORD = rf"{_UNIT_NAME}\.?(?:\s*\^\s*\{{?\d\}}?|[²³])?"
_UNIT = re.compile(
    rf"(?:\\?%|\^\s*\{{?\s*\\circ\s*\}}?|\\circ|°\s*[CF]?|\\?[$€£¥]|{_UNIT_WORD}(?:\s*/\s*{_UNIT_WORD})?)"
)


@dataclass(frozen=True)
class Quantity:
    """An exact number and the unit written after it, ``""`` without one."""

    value: Fraction
    unit: str = ""

    def matches(self, other: Quantity) -> bool:
        """True where the numbers are equal and the units, if both are written, are the same."""
        return self.value == other.value and (not self.unit or not other.unit or self.unit == other.unit)


def parse_number(text: str) -> Quantity | None:
    r"""Read a number written as a value: an integer, a decimal, a fraction or a power of ten, signed, with thousands
    separators, a currency sign before it or one unit after it; None for anything else, an expression or a list.

    >>> parse_number("-1,234.50"), parse_number(r"\frac{6}{4}").value
    (Quantity(value=Fraction(-2469, 2), unit=''), Fraction(3, 2))
    >>> parse_number("20+22"), parse_number("42 or 43"), parse_number("12 km").unit
    (None, None, 'km')
    """
    text = _plain(text)
    form = _FORM.fullmatch(text) if len(text) <= DIGITS_LIMIT else None
    if form is None or not (form["unit"] == "" or _UNIT.fullmatch(form["unit"])):
        return None
    value = _value(form)
    if value is None:
        return None
    negative = (form["sign"] == "-") != (form["inner"] == "-")
    return Quantity(-value if negative else value, form["unit"].replace("\\", "").replace(" ", ""))


def _plain(text: str) -> str:
    """The text without what only decorates it: minus signs of other alphabets, spacing, text commands."""
    text = text.replace("−", "-").replace("–", "-").replace("\\!", "").replace("~", " ")
    text = re.sub(r"\\(?:text|mathrm|textrm|operatorname)\s*\{([^{}]*)\}", r" \1 ", text)
    return re.sub(r"\\[ ;:]|\\q?quad\b|\s+", " ", text).strip()


def _value(form: re.Match[str]) -> Fraction | None:
    top = form["top"] or form["top1"] or form["value"]
    bottom = _fraction(form["bottom"] or form["bottom1"] or form["over"] or "1")
    power = int(form["power"] or form["exponent"] or 0)
    if bottom == 0 or abs(power) > EXPONENT_LIMIT:
        return None
    return _fraction(top) / bottom * Fraction(10) ** power


def _fraction(text: str) -> Fraction:
    digits = re.sub(r"\{,\}|\\,|[,\s]", "", text)
    return Fraction(digits + "0" if digits.endswith(".") else digits)
