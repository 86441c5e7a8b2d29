from __future__ import annotations

import pytest

from r1lit.text.codes import NAMES, language_code
from r1lit.text.function_words import FAMILIES
from r1lit.text.languages import BY_SCRIPT


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("English", "en"),
        ("zh-CN", "zh"),
        ("zh_tw", "zh"),
        ("pt-BR", "pt"),
        ("FARSI", "fa"),
        ("nb", "no"),
        ("中文", "zh"),
    ],
)
def test_names_and_locales(name: str, code: str):
    assert language_code(name) == code


@pytest.mark.parametrize(("name", "hint"), [("Germann", "did you mean german"), ("", "language=''"), ("xx", "'xx'")])
def test_what_is_no_language(name: str, hint: str):
    with pytest.raises(ValueError, match=hint):
        language_code(name)


def test_every_language_that_can_be_told_has_a_name():
    told = {language for listed in FAMILIES.values() for language in listed} | {*BY_SCRIPT.values(), "zh", "ja"}
    assert told == set(NAMES)
