"""Pairs and labelled replies: every form that is read, every reason to leave one out, and lengths that balance."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from made_tokenizers import byte_level
from trl.data_utils import maybe_extract_prompt

from r1lit.data.files import DataError
from r1lit.data.preferences import Judgement, balanced, explicit, length_figures, load_judgements
from r1lit.data.settings import DataSettings
from r1lit.text.replies import ReplyEncoder

THINKING = "<think> {} </think> <answer> {} </answer>"


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level()


@pytest.fixture
def load(tokenizer, tmp_path):
    def load(*rows, settings=(), **options):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = {"path": str(path), "template": "none", "validation": 0.0, "max_bad_rows": 0.99} | dict(settings)
        return load_judgements(DataSettings(**given), tokenizer, **options)

    return load


def pairs(count: int, chosen="{n} and more", rejected="{n}") -> list[dict]:
    return [
        {"prompt": f"What is {n}?", "chosen": chosen.format(n=n), "rejected": rejected.format(n=n)}
        for n in range(count)
    ]


def said(tokenizer, judgement: Judgement) -> list[str]:
    return [
        tokenizer.decode(ids[-1 - length : -1]) for ids, length in zip(judgement.rows, judgement.lengths, strict=True)
    ]


def test_a_pair_is_two_rows_of_prompt_reply_and_end(load, tokenizer):
    (pair,) = load({"prompt": "What?", "chosen": "This.", "rejected": "That one.", "margin": 1.5}).train
    encoder = ReplyEncoder(tokenizer, "none")
    assert pair.rows == (encoder.encode_row("What?", "This."), encoder.encode_row("What?", "That one."))
    assert pair.lengths == tuple(len(tokenizer(text)["input_ids"]) for text in (" This.", " That one."))
    assert pair.target == 1.5 and pair.origin.endswith("rows.jsonl:1")
    assert load({"prompt": "What?", "chosen": "This.", "rejected": "That."}).train[0].target == 0.0


@pytest.mark.parametrize(
    ("part", "expected"),
    [("answer", [" 7", " 8"]), ("response", [f" {THINKING.format('a', 7)}", " <think> b </think> 8"])],
)
def test_the_part_that_is_seen(load, tokenizer, part, expected):
    row = {"prompt": "What?", "chosen": THINKING.format("a", 7), "rejected": "<think> b </think> 8"}
    assert said(tokenizer, load(row, part=part).train[0]) == expected


def test_implicit_prompts_are_trls(load, tokenizer):
    user, reply, again = (
        {"role": "user", "content": "What?"},
        {"role": "assistant", "content": "Which?"},
        {"role": "user", "content": "That."},
    )
    good, bad = ({"role": "assistant", "content": text} for text in ("Good.", "Bad."))
    rows = [
        {"chosen": [user, good], "rejected": [user, bad]},
        {"chosen": [user, reply, again, good], "rejected": [user, reply, again, bad]},
        # As in UltraFeedback: the prompt's text beside whole conversations.
        {"prompt": "What?", "chosen": [user, good], "rejected": [user, bad]},
        {"prompt": [user], "chosen": [good], "rejected": [bad]},
        {"prompt": "What?", "chosen": "Good.", "rejected": "Bad."},
    ]
    for row in rows:
        derived = explicit(row)
        assert {name: derived[name] for name in ("prompt", "chosen", "rejected")} == maybe_extract_prompt(row)
    loaded = load(*rows).train
    assert [said(tokenizer, pair) for pair in loaded[:4]] == [["Good.", "Bad."]] * 4
    assert loaded[0].rows == loaded[2].rows == loaded[3].rows != loaded[1].rows
    encoder = ReplyEncoder(tokenizer, "none")
    assert loaded[0].rows[0] == encoder.encode_row([user], "Good.")


def test_columns_of_other_names(load):
    row = {"q": "What?", "good": "This.", "bad": "That."}
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    assert len(load(row, settings={"columns": columns}).train) == 1


@pytest.mark.parametrize(
    ("label", "expected"),
    [(True, 1.0), (0, 0.0), (0.25, 0.25), ("safe", 1.0), (" Unsafe ", 0.0), ("1", 1.0), (None, None), (2, None),
     ("maybe", None), (float("nan"), None), ([1], None)],
)  # fmt: skip
@pytest.mark.parametrize("name", ["response", "completion"])
def test_labels(load, label, expected, name):
    rows = [{"prompt": "What?", name: "This.", "label": label}, {"prompt": "What?", name: "That.", "label": 1}]
    loaded = load(*rows, kind="pointwise")
    assert [judgement.target for judgement in loaded.train] == [*([] if expected is None else [expected]), 1.0]
    assert loaded.report.sources[0].bad == ({"bad label": 1} if expected is None else {})


def test_a_labelled_reply_is_one_row(load, tokenizer):
    row = {"prompt": "What?", "response": [{"role": "assistant", "content": THINKING.format("a", 7)}], "label": "safe"}
    (judgement,) = load(row, kind="pointwise", part="response").train
    assert said(tokenizer, judgement) == [f" {THINKING.format('a', 7)}"]


BAD = {
    "empty reply": {"chosen": " "},
    "bad reply": {"chosen": 7},
    "equal replies": {"chosen": "That.", "rejected": "That."},
    "no final answer": {"chosen": "<think> on and on"},
    "bad margin": {"margin": "large"},
    "over-long row": {"chosen": "This. " * 100},
    "empty prompt": {"prompt": ""},
    "bad prompt": {"prompt": [{"role": "nobody", "content": "x"}]},
    "missing column": {"rejected": ...},
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_rows_are_counted_by_reason(load, reason):
    row = {"prompt": "What?", "chosen": "This.", "rejected": "That."} | BAD[reason]
    row = {name: value for name, value in row.items() if value is not ...}
    loaded = load(row, *pairs(2), max_tokens=100)
    (source,) = loaded.report.sources
    assert (source.read, source.train, source.bad) == (3, 2, {reason: 1})
    assert f"rows.jsonl:1: {reason}: " in source.examples[0]


def test_answers_that_only_differ_in_their_reasoning_are_equal(load):
    rows = [{"prompt": "What?", "chosen": THINKING.format("a", 7), "rejected": THINKING.format("b", 7)}, *pairs(1)]
    assert load(*rows, part="answer").report.sources[0].bad == {"equal replies": 1}
    assert len(load(*rows, part="response").train) == 2


def test_a_rejected_reply_without_an_answer_is_an_empty_one(load, tokenizer):
    (pair,) = load({"prompt": "What?", "chosen": "This.", "rejected": "<think> on and on"}).train
    assert said(tokenizer, pair)[1].strip() == ""


def test_replies_of_several_messages_are_refused(load):
    user, good, bad = ({"role": role, "content": role[0]} for role in ("user", "assistant", "tool"))
    row = {"prompt": [user], "chosen": [good, user, good], "rejected": [bad]}
    loaded = load(row, *pairs(1))
    assert "assistant, user, assistant" in loaded.report.sources[0].examples[0]


def test_too_many_bad_rows_stop_the_run(load):
    with pytest.raises(DataError, match=r"1 of 3 rows are unusable \(equal replies 1\)"):
        load(*pairs(2), {"prompt": "x", "chosen": "a", "rejected": "a"}, settings={"max_bad_rows": 0.1})


def test_the_same_prompts_are_held_out_in_every_run(load):
    rows = [*pairs(100), *pairs(100, "{n} indeed", "not {n}")]
    first, again = (load(*rows, settings={"validation": 0.2}) for _ in range(2))
    assert first.validation == again.validation and 20 <= len(first.validation) <= 60
    prompts = [{pair.rows[0][: len(pair.rows[0]) - pair.lengths[0] - 1] for pair in part} for part in
               (first.train, first.validation)]  # fmt: skip
    assert not prompts[0] & prompts[1]
    (source,) = first.report.sources
    assert source.read == source.train + source.validation == 200


@pytest.mark.parametrize("kind", ["pairwise", "pointwise"])
def test_rows_of_prompts_that_are_measured_are_left_out(load, kind):
    chats = [
        {
            "chosen": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["chosen"]}],
            "rejected": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["rejected"]}],
        }
        for row in pairs(4)
    ]
    labelled = [{"prompt": row["prompt"], "response": row["chosen"], "label": 1} for row in pairs(8)]
    loaded = load(*{"pairwise": pairs(4) + chats, "pointwise": labelled}[kind], kind=kind, held_prompts={"What is 1?"})
    (source,) = loaded.report.sources
    assert source.left_out == {"is a held-out prompt": {"pairwise": 2, "pointwise": 1}[kind]}
    assert source.train == len(loaded.train) == 8 - source.left_out.total()


def test_length_balance_by_hand():
    """Differences of 1; 2 and 3; 4 to 7 are alike. The longer is chosen 3, 2 and 1 times, the shorter 1, 2 and 0."""
    lengths = [(2, 1), (3, 2), (9, 8), (1, 2), (5, 2), (5, 3), (1, 3), (2, 5), (9, 2), (4, 4)]
    rows = [Judgement(((n,), (n, n)), pair, 0.0) for n, pair in enumerate(lengths)]
    kept = [pair.lengths for pair in balanced(rows, seed=0)]
    assert kept[-6:] == [(1, 2), (5, 2), (5, 3), (1, 3), (2, 5), (4, 4)] and len(kept) == 7
    assert balanced(rows, seed=0) == balanced(rows, seed=0)
    assert len({next(pair.lengths for pair in balanced(rows, seed)) for seed in range(20)}) == 3
    figures = length_figures(balanced(rows, 1))
    assert figures["longer_chosen"] == figures["shorter_chosen"] == 3 / 7


def test_balancing_is_counted_and_leaves_the_held_out_pairs_alone(load):
    rows = [*pairs(60), *pairs(20, "{n}", "{n} and more")]
    plain = load(*rows, settings={"validation": 0.1})
    loaded = load(*rows, settings={"validation": 0.1}, balance_lengths=True)
    (source,), sides = loaded.report.sources, Counter(pair.lengths[0] > pair.lengths[1] for pair in loaded.train)
    assert sides[True] == sides[False] > 10
    assert source.left_out["length balance"] == len(plain.train) - len(loaded.train) == len(plain.train) - source.train
    assert loaded.validation == plain.validation
    with pytest.raises(DataError, match="lengths cannot be balanced"):
        load(*pairs(10), balance_lengths=True)


def test_the_embedded_small_talk_makes_pairs(tokenizer):
    source = {
        "generator": "talk",
        "size": 200,
        "params": {"kinds": ["general"], "languages": ["en"]},
        "split_by": "key",
    }
    settings = DataSettings(sources={"talk": source}, template="none")
    loaded = load_judgements(settings, tokenizer)
    assert len(loaded.train) > 100 and len(loaded.validation) > 5 and not loaded.report.sources[0].bad
