from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from r1lit.rewards.instruction_checks import CHECKS, UnknownInstructionError, count_sentences, follows
from r1lit.rewards.instructions import instructions
from r1lit.rewards.judge import Judge, columns_of
from r1lit.rewards.spec import RewardSettings

CONF = Path(__file__).parents[2] / "conf" / "reward" / "instructions.yaml"

CASES = [
    # name, arguments, texts that follow it, texts that do not
    ("keywords:existence", {"keywords": ["Tea", "c++"]}, ["TEA and C++", "steam, c++"], ["tea", "c+ tea", ""]),
    (
        "keywords:frequency",
        {"keyword": "tea ", "frequency": 2, "relation": "at least"},
        ["tea Tea", "steam tea tea"],
        ["tea", "none"],
    ),
    ("keywords:frequency", {"keyword": "tea", "frequency": 2, "relation": "less than"}, ["tea", "no"], ["tea tea"]),
    (
        "keywords:forbidden_words",
        {"forbidden_words": ["tea", "Milk"]},
        ["steam", "milky way", "coffee"],
        ["Tea.", "no milk!"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "E", "let_frequency": 3, "let_relation": "at least"},
        ["Eve ate", "eee"],
        ["Eve", "xyz"],
    ),
    ("keywords:letter_frequency", {"letter": "!", "let_frequency": 2, "let_relation": "less than"}, ["a!"], ["a!!"]),
    (
        "language:response_language",
        {"language": "de"},
        ["Das ist ein kurzer Satz, und ich mag ihn sehr.", "1 + 1 = 2"],
        ["This is a short sentence, and I like it.", "Das ist schön, но это предложение написано по-русски."],
    ),
    (
        "language:response_language",
        {"language": "mr"},
        ["हे एक छोटे वाक्य आहे आणि मला ही भाषा आवडते."],
        ["यह एक छोटा वाक्य है।"],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "at least"},
        ["One. Two? Three!", "A boy. A girl.\nA dog.", "一。二！三？"],
        ["One. Two.", "Dr. Who met Mr. X. He ran."],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "less than"},
        ["One", "1.5 m."],
        ["A boy. A dog"],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a\n***\nb", "***a *** b***", "a b\n\nc***d"],
        ["a", "a *** b *** c", "a ****** b", "***a***"],
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 1}, ["a", "***\na"], ["a***b"]),
    (
        "length_constraints:number_words",
        {"num_words": 3, "relation": "at least"},
        ["one two three", "it's me"],
        ["one two", "one-two"],
    ),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, ["one two"], ["one, two, 3"]),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        ["First.\n\nThen on.", 'a\n\n"then, b', "a b c\n\n  THEN's it\n\n"],
        ["Then.\n\nFirst.", "a\n\nthen\n\nc", "then", "a\nthen", "a\n\nThence on", "a\n\n\n\nthen"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[a] [b c]", "[[a] []"],
        ["[a]", "[a\nb] [c]"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["Bye.\nP.S. x", "a p. s. b"],
        ["PS x", "P.P.S x"],
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["P.P.S. x", "p. p. s"], ["P.S. x"]),
    ("detectable_content:postscript", {"postscript_marker": "Note (b)"}, ["NOTE (B) x"], ["note b"]),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n* b", "a\n  - b\n* c\n**d**", "-a\n-b"],
        ["* a", "- a\n- b\n- c", "** a\n** b", "1. a\n2. b"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["My answer is yes.", "Well. My answer is maybe. So"],
        ["my answer is yes.", "My answer is yes", "Yes."],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* and *b*", "**a** *b*", "**a** **b**"],
        ["*a*", "**a**", "* a\n* b", "**** ** **"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1\na\nSECTION 2\nb", "SECTION1 SECTION22"],
        ["SECTION 1", "Section 1 Section 2", "SECTION one SECTION two"],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": [1]}', '```json\n{"a": 1}\n```', "```\n[]\n```", "3"],
        ["{a: 1}", "{'a': 1}", 'It is {"a": 1}', '```python\n{"a": 1}\n```', "[" * 100_000],
    ),
    ("detectable_format:title", {}, ["<<Tea>> is good", "a <<b>>>"], ["<Tea>", "<<>>", "<< >>", "<<a\nb>>", ">>a<<"]),
    (
        "combination:two_responses",
        {},
        ["a\n******\nb", "******a******b******"],
        ["a", "a***b", "a ****** a", "a******b******c", "a************b"],
    ),
    ("combination:repeat_prompt", {"prompt_to_repeat": "What is tea?"}, [" WHAT is tea? Hot."], ["Hot. What is tea?"]),
    ("startend:end_checker", {"end_phrase": " Any other questions? "}, ['So. any other questions?"'], ["Any other"]),
    ("startend:quotation", {}, ['"a"', ' "a b"\n', '""'], ["a", '"a', '"', "'a'"]),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["BIG DOG", "I am A-OK", "U.S. NASA"],
        ["BIG dog", "Big Dog", "H2o"],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 1, "capital_relation": "less than"},
        ["big dog"],
        ["a BIG dog"],
    ),
    (
        "change_case:english_capital",
        {},
        ["THIS IS A SHORT SENTENCE, AND I LIKE IT."],
        ["This IS NOT.", "DAS IST EIN KURZER SATZ, UND ICH MAG IHN SEHR.", "12"],
    ),
    (
        "change_case:english_lowercase",
        {},
        ["this is a short sentence, and i like it."],
        ["this is Not.", "das ist ein kurzer satz, und ich mag ihn sehr.", "12"],
    ),
    ("punctuation:no_comma", {}, ["a b; c", "a，b"], ["a, b", "1,000"]),
]


@pytest.mark.parametrize(("name", "given", "right", "wrong"), CASES, ids=[case[0] for case in CASES])
def test_by_hand(name, given, right, wrong):
    assert {text: follows(text, name, given) for text in right} == dict.fromkeys(right, True)
    assert {text: follows(text, name, given) for text in wrong} == dict.fromkeys(wrong, False)
    assert not follows(" \n", name, given)


def test_all_25_instructions_are_there():
    assert len(CHECKS) == 25
    assert {name for name, *_ in CASES} == set(CHECKS)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("...", 0),
        ("No stop at all", 1),
        ("One line\nand the next", 1),
        ("It ends. it goes on.", 2),
        ("Wait... what? Really?!", 2),
        ("Wait... What?", 2),
        ('He said "Go." Then (and then.) He went.', 3),
        ("Mr. A. B. Cook paid 3.50. It was, e.g. by Dr. Who, etc. He left etc. and so on.", 3),
        ("See www.example.com. It is v1.2.3 of it.", 2),
        ("他来了。她走了！你呢？", 3),
    ],
)
def test_sentences_by_hand(text, count):
    assert count_sentences(text) == count


@pytest.mark.parametrize("letter", [*"[<*.!?\"'- a\n", "[]", "<<", "a.", "***", "{", "- "])
def test_no_text_takes_long(letter):
    """What a policy may say when it has gone wrong: one thing for the whole of its answer."""
    text = letter * (100_000 // len(letter))
    start = time.monotonic()
    for name, given, *_ in CASES:
        if not name.startswith(("language", "change_case:english")):
            follows(text, name, given)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("punctuation:no_coma", {}, "did you mean punctuation:no_comma"),
        ("keywords:existence", {"keywords": None}, "keywords:existence needs keywords, and has nothing"),
        ("length_constraints:number_words", {"num_words": 3}, "needs relation, and has num_words"),
        ("length_constraints:number_words", {"num_words": 3, "relation": "at most"}, "did you mean at least"),
        ("language:response_language", {"language": "xx"}, "xx"),
    ],
)
def test_what_cannot_be_judged_says_why(name, given, said):
    with pytest.raises(UnknownInstructionError, match=said):
        follows("text", name, given)


NAMES = ["punctuation:no_comma", "length_constraints:number_words"]
GIVEN = [{"num_words": None}, {"num_words": 3, "relation": "at least", "keyword": None}]


@pytest.mark.parametrize(
    ("text", "strict", "loose", "shares"),
    [
        ("<think> a, b </think> one two three", 1.0, 1.0, (1.0, 1.0)),
        ("<think> a b c </think> <answer> one, two three </answer>", 0.0, 0.0, (0.5, 0.5)),
        ("one, two", 0.0, 0.0, (0.0, 0.0)),
        # without its first line it is right
        ("Sure, here:\none two three", 0.0, 1.0, (0.5, 1.0)),
        ("one two three\nWell, bye", 0.0, 1.0, (0.5, 1.0)),
        ("So, this:\none two three\nWell, bye", 0.0, 1.0, (0.5, 1.0)),
        # each instruction on its own: the paper's loose accuracy takes the best text for each
        ("one, two\nthree", 0.0, 1.0, (0.5, 1.0)),
        ("<think> one two three", 0.0, 0.0, (0.0, 0.0)),
        ("", 0.0, 0.0, (0.0, 0.0)),
    ],
)
def test_strict_loose_and_shares(text, strict, loose, shares):
    assert instructions([text], [NAMES], [GIVEN]) == [strict]
    assert instructions([text], [NAMES], [GIVEN], loose=True) == [loose]
    assert tuple(instructions([text], [NAMES], [GIVEN], loose=flag, share=True)[0] for flag in (False, True)) == shares


def test_asterisks_are_forgiven_by_the_loose_one():
    told = ["startend:quotation"], [{}]
    assert instructions(['**"a"**'], [told[0]], [told[1]]) == [0.0]
    assert instructions(['**"a"**'], [told[0]], [told[1]], loose=True) == [1.0]


def test_rows_that_cannot_be_judged_are_not():
    names = [NAMES, ["no:such"], [*NAMES, "no:such"], [], None, NAMES, np.array(NAMES)]
    given = [GIVEN, [{}], [*GIVEN, {}], [], None, GIVEN[:1], np.array(GIVEN)]
    assert instructions(["one two three"] * 7, names, given) == [1.0, None, None, None, None, None, 1.0]


def test_answers_that_were_cut_out_already_are_taken():
    assert instructions(["x", "y"], [NAMES] * 2, [GIVEN] * 2, answers=["one two three", None]) == [1.0, 0.0]


def test_the_shipped_reward_is_called_as_the_data_set_names_its_columns():
    (values,) = yaml.safe_load(CONF.read_text()).values()
    settings = RewardSettings(**values)
    assert settings.weight == 1.0 and settings.applies({})
    row = {"key": 1000, "instruction_id_list": NAMES, "kwargs": GIVEN}
    group = {"completions": ["one two three", "a, b"], "columns": row, "prompt": "q", "completion_ids": [[1]] * 2}
    verdict = Judge(settings.for_worker(), [])(columns_of(group | {"truncated": [False] * 2}), [0, 1])
    assert (verdict.values, verdict.message) == ([1.0, 0.0], "")
