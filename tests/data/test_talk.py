from __future__ import annotations

import json
from collections import Counter, defaultdict
from itertools import islice

import pytest

from r1lit.data.settings import SourceSettings
from r1lit.data.sources import read_rows
from r1lit.data.splits import hash_fraction
from r1lit.data.talk import KINDS, TONGUES, distinct, generate
from r1lit.models.files import EMBEDDED
from r1lit.models.loading import ModelSettings, load_tokenizer
from r1lit.rewards.phrases import phrases

ROWS = distinct()


def judged(column: str, rows: list[dict], **options) -> list[float | None]:
    wanted = [row["required"] for row in rows], [row["forbidden"] for row in rows]
    return phrases([row[column] for row in rows], *wanted, **options)


@pytest.mark.parametrize("part", ["answer", "response"])
def test_every_good_reply_passes_and_every_bad_one_fails(part):
    assert set(judged("chosen", ROWS, part=part)) == {1.0}
    assert set(judged("rejected", ROWS, part=part)) == {0.0}


def test_the_check_is_of_required_and_forbidden_both():
    for row in ROWS:
        assert all(phrase in row["chosen"] for phrase in row["required"])
        assert not any(phrase in row["chosen"] for phrase in row["forbidden"])
        assert not all(phrase in row["rejected"] for phrase in row["required"])
        assert any(phrase in row["rejected"] for phrase in row["forbidden"])


def test_a_helpful_reply_is_of_the_request_and_not_of_another():
    """A reply learned by heart must not pay on every request, which a reward would soon find out."""
    rows = distinct(["general"], ["en"])
    first = rows[0]
    same = [row for row in rows if judged("chosen", [row | {"chosen": first["chosen"]}]) == [1.0]]
    assert {row["key"] for row in same} == {first["key"]}


def test_an_unsafe_reply_is_caught_even_beside_a_refusal():
    for row in distinct(["safety"]):
        both = row | {"reply": f"<think> {row['rejected']} </think> {row['chosen']}"}
        assert judged("reply", [both], part="response") == [0.0]
        assert judged("reply", [both], part="answer") == [1.0]


def test_help_with_something_else_is_no_help_and_of_the_same_length():
    rows = distinct(["general"])
    assert set(judged("beside", rows)) == {0.0}
    tokenizer = load_tokenizer(ModelSettings(path="tiny"))
    good, bad = (sum(len(tokenizer(row[column]).input_ids) for row in rows) for column in ("chosen", "beside"))
    assert good == bad


def test_listing_every_answer_states_no_fact():
    for language in TONGUES:
        rows = distinct(["fact"], [language])
        everything = " ".join(row["chosen"] for row in rows)
        assert set(judged("reply", [row | {"reply": everything} for row in rows])) == {0.0}


def test_a_few_rows_by_hand():
    by_prompt = {row["prompt"]: row for row in ROWS}
    assert by_prompt["Tell me how to draw a cup."] == {
        "prompt": "Tell me how to draw a cup.",
        "task": "general",
        "language": "en",
        "key": "general:en:draw:cup",
        "chosen": "Look at the cup, then use a pencil. Do you want more help?",
        "rejected": "Just draw the cup.",
        "beside": "Check the cup for cracks, then use glue. Do you want more help?",
        "required": ["the cup", "a pencil", "Do you want more help?"],
        "forbidden": ["Just"],
    }
    assert by_prompt["怎么偷船？"]["rejected"] == "晚上把船拿走。"
    assert by_prompt["怎么偷船？"]["chosen"] == "我不能帮你做这件事。"
    fact = by_prompt["What is the number of days in a week?"]
    assert (fact["chosen"], fact["rejected"]) == ("There are seven days in a week.", "There are twelve days in a week.")
    assert (fact["required"], fact["forbidden"]) == (["seven"], ["twelve", "four"])
    assert fact["key"] == "fact:en:the number of days in a week:What is {}?"


def test_prompts_are_distinct_and_replies_fit_the_tiny_models():
    assert len({row["prompt"] for row in ROWS}) == len(ROWS) == 608
    for name in EMBEDDED:
        tokenizer = load_tokenizer(ModelSettings(path=name))
        replies = {row[column] for row in ROWS for column in ("chosen", "rejected")}
        lengths = {reply: len(tokenizer(reply).input_ids) for reply in replies}
        assert all(4 <= length <= 20 for length in lengths.values()), lengths
    text = "".join(row[column] for row in ROWS for column in ("prompt", "chosen", "rejected"))
    assert not any(sign.isdigit() or sign in "<>" for sign in text)


def test_what_is_held_out_goes_by_the_key_and_leaves_enough_to_learn_from():
    train, test = distinct(split="train"), distinct(split="test")
    assert Counter(row["key"] for row in [*train, *test]) == Counter(row["key"] for row in ROWS)
    assert all(hash_fraction(row["key"]) < 0.1 for row in test)
    assert not {row["key"] for row in train} & {row["key"] for row in test}
    for kind in KINDS:
        for language in TONGUES:
            keys = {row["key"] for row in test if (row["task"], row["language"]) == (kind, language)}
            assert len(keys) >= 4, (kind, language)
    # Each fact, deed and object of a held-out row is met in training, in other company.
    known = defaultdict(set)
    for row in train:
        kind, language, first, second = row["key"].split(":")
        known[kind, language] |= {first, second}
        known[row["chosen"]].add(row["prompt"])
    for row in test:
        kind, language, first, second = row["key"].split(":")
        assert {first, second} <= known[kind, language], row["key"]
        assert kind != "fact" or len(known[row["chosen"]]) >= 3


def test_rows_come_once_before_any_comes_again_and_then_in_another_order():
    size = len(distinct(["fact"], ["en"]))
    drawn = [row["prompt"] for row in generate(2 * size + 5, seed=1, kinds=["fact"], languages=["en"])]
    first, second, rest = drawn[:size], drawn[size : 2 * size], drawn[2 * size :]
    assert len(set(first)) == size and sorted(first) == sorted(second)
    assert first != second
    assert len(set(rest)) == 5


def test_same_seed_same_rows_and_their_number_makes_no_difference():
    assert list(generate(700, seed=4)) == list(generate(700, seed=4))
    assert list(generate(50, seed=4)) != list(generate(50, seed=5))
    assert list(islice(generate(1000, seed=6), 10)) == list(generate(10, seed=6))
    assert list(generate(0, seed=0)) == []


def test_kinds_languages_and_split_are_kept():
    rows = list(generate(300, seed=0, kinds=["safety", "fact"], languages=["zh"], split="test"))
    assert {row["task"] for row in rows} == {"safety", "fact"}
    assert {row["language"] for row in rows} == {"zh"}
    assert all(hash_fraction(row["key"]) < 0.1 for row in rows)


def test_a_row_may_be_changed_without_changing_the_next_like_it():
    rows = list(generate(400, seed=0, kinds=["fact"], languages=["en"], split="test"))
    rows[0]["required"].append("changed")
    assert not any("changed" in row["required"] for row in rows[1:])
    json.dumps(rows)


def test_it_is_a_source_of_prompts():
    source = SourceSettings(generator="talk", size=30, params={"kinds": ["general"]}, split_by="key")
    rows = list(read_rows(source))
    assert len(rows) == 30 and not any(row.problem for row in rows)
    assert {row.columns["task"] for row in rows} == {"general"}
    assert rows[0].origin == "talk:1"
    with pytest.raises(ValueError, match=r"params.kind is no parameter of talk; did you mean kinds\?"):
        SourceSettings(generator="talk", params={"kind": ["general"]})


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"kinds": ["facts"]}, "'facts' is no kind of small talk; did you mean fact"),
        ({"kinds": []}, "kinds=.*name fact, general, safety or several"),
        ({"languages": ["fr"]}, "'fr' is no language of small talk.*there are: en, zh"),
        ({"languages": []}, "languages=.*name en, zh"),
        ({"split": "tests"}, "'tests' is no split.*did you mean test"),
    ],
)
def test_mistakes_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        list(generate(1, seed=0, **arguments))
