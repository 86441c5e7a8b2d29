"""Demonstrations: every form that is read, every reason to leave one out, and what is held out."""

from __future__ import annotations

import json

import pyarrow
import pyarrow.parquet
import pytest
from made_tokenizers import byte_level

from r1lit.data.demonstrations import load_demonstrations
from r1lit.data.files import DataError
from r1lit.data.settings import DataSettings
from r1lit.data.splits import hash_fraction
from r1lit.data.stream import epochs
from r1lit.text.turns import TurnEncoder

REPLY = "<think> 3 + 4 is 7 </think> <answer> 7 </answer>"
USER = {"role": "user", "content": "What is 3 + 4 ?"}
ANSWER = {"role": "assistant", "content": REPLY}
TALK = [USER, {"role": "assistant", "content": "7"}, {"role": "user", "content": "Sure ?"}, ANSWER]


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level()


@pytest.fixture
def load(tokenizer, tmp_path):
    def load(*rows, settings=(), **options):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = {"path": str(path), "template": "none", "validation": 0.0, "max_bad_rows": 0.99} | dict(settings)
        return load_demonstrations(DataSettings(**given), tokenizer, **options)

    return load


def learnt(tokenizer, item) -> str:
    return tokenizer.decode([number for number, flag in zip(item.ids, item.trained, strict=True) if flag])


def test_a_demonstration_is_a_prompt_and_its_answer(load, tokenizer):
    row = {"prompt": "What is 3 + 4 ? ", "response": REPLY, "task": "sum", "answer": 7}
    (item,) = load(row).train
    encoded = TurnEncoder(tokenizer, "none").encode_answer(row["prompt"], REPLY)
    assert (item.ids, item.trained) == (encoded.ids, encoded.trained)
    assert tokenizer.decode(item.ids) == f"What is 3 + 4 ? {REPLY}<|endoftext|>"
    assert learnt(tokenizer, item) == f"{REPLY}<|endoftext|>"
    assert item.columns == {"task": "sum", "answer": 7} and item.origin.endswith("rows.jsonl:1")
    templated = load(row, settings={"template": "Q: {prompt} A: "}).train[0]
    assert tokenizer.decode(templated.ids) == f"Q: What is 3 + 4 ?  A: {REPLY}<|endoftext|>"


def test_all_forms_of_one_row_are_one_demonstration(load):
    forms = load(
        {"prompt": [USER], "response": REPLY},
        {"prompt": [USER], "completion": [ANSWER]},
        {"prompt": [{**USER, "name": None}], "response": [{**ANSWER, "tool_calls": None}]},
        {"messages": [USER, ANSWER]},
        {"prompt": "what it is split by", "messages": [USER, ANSWER]},
        {"messages": [USER, ANSWER, {"role": "user", "content": "Thanks."}]},
    )
    assert len({(item.ids, item.trained) for item in forms.train}) == 1 and len(forms.train) == 6
    assert forms.report.sources[0].repeats == 5
    plain = load({"prompt": "q", "response": REPLY}, {"prompt": "q", "completion": REPLY}).train
    assert plain[0].ids == plain[1].ids
    mapped = load(
        {"problem": "q", "solution": REPLY}, settings={"columns": {"prompt": "problem", "response": "solution"}}
    )
    assert mapped.train[0].ids == plain[0].ids and mapped.train[0].columns == {}


@pytest.mark.parametrize(
    ("loss_on", "said"),
    [("responses", f"7<|im_end|>{REPLY}<|im_end|>"), ("last_response", f"{REPLY}<|im_end|>")],
)
def test_what_of_a_conversation_is_learnt(load, tokenizer, loss_on, said):
    rows = load({"messages": TALK}, {"prompt": TALK[:-1], "response": REPLY}, loss_on=loss_on)
    conversation, answered = rows.train
    assert conversation.ids == answered.ids
    assert learnt(tokenizer, conversation) == said
    # What stands in a prompt is never learnt.
    assert learnt(tokenizer, answered) == f"{REPLY}<|im_end|>"


def test_raw_text_is_learnt_whole(load, tokenizer):
    loaded = load({"text": "three and four"}, {"prompt": "x", "text": "are seven"}, {"text": " "}, loss_on="text")
    assert [tokenizer.decode(item.ids) for item in loaded.train] == [
        "three and four<|endoftext|>",
        "are seven<|endoftext|>",
    ]
    assert all(item.trained == (False, *[True] * (len(item.ids) - 1)) for item in loaded.train)
    # It is its own prompt, by which it is held out.
    assert dict(loaded.report.sources[0].bad) == {"empty text": 1}
    with pytest.raises(DataError, match=r"no column text, which sft\.loss_on=text reads"):
        load({"prompt": "x", "response": "y"}, loss_on="text")


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ({"prompt": "q", "response": ""}, "no trained token", "says nothing"),
        ({"prompt": "q", "response": [{"role": "assistant", "content": " "}]}, "no trained token", "says nothing"),
        ({"messages": [USER]}, "no trained token", "the assistant says nothing"),
        ({"prompt": "q", "response": "<think> 3 + 4"}, "no final answer", "ends within its reasoning"),
        ({"prompt": "q", "response": "<think> 7 </think> <answer> 7"}, "no final answer", "ends within"),
        ({"messages": [USER, {"role": "assistant", "content": "<think> 3"}]}, "no final answer", "ends within"),
        ({"prompt": "q", "response": [USER]}, "bad response", "not one message of the assistant's"),
        ({"prompt": "q", "response": 7}, "bad response", "is no text"),
        ({"prompt": "", "response": "7"}, "empty prompt", "asks nothing"),
        ({"prompt": [ANSWER], "response": "7"}, "bad prompt", "a prompt ends before its answer"),
        ({"messages": [{"role": "bot", "content": "q"}, ANSWER]}, "bad text", "role='bot'"),
        ({"messages": "q"}, "bad text", "a conversation is a list of messages"),
        ({"prompt": "q", "text": "t"}, "missing column", "no answer; give it prompt and response"),
        ({"text": "t"}, "missing column", "raw text takes sft.loss_on=text"),
        ({"answer": 7}, "missing column", "no column prompt"),
        ({"prompt": "q", "response": "7 " * 50}, "over-long demonstration", "more than sft.max_tokens=60"),
    ],
)
def test_rows_that_cannot_be_used_are_counted_by_reason(load, row, reason, detail):
    loaded = load(row, {"prompt": "q", "response": "7"}, max_tokens=60)
    (report,) = loaded.report.sources
    assert dict(report.bad) == {reason: 1} and len(loaded.train) == 1
    assert detail in report.examples[0] and "rows.jsonl:1" in report.examples[0]
    with pytest.raises(DataError, match=f"{reason} 1"):
        load(row, {"prompt": "q", "response": "7"}, max_tokens=60, settings={"max_bad_rows": 0.1})


def test_a_row_of_exactly_the_longest_length_stays(load):
    (item,) = load({"prompt": "q", "response": "7 7 7"}).train
    assert len(load({"prompt": "q", "response": "7 7 7"}, max_tokens=len(item.ids)).train) == 1


def test_what_is_held_out_goes_by_the_prompt(load):
    rows = [{"prompt": f"What is {n % 50}?", "response": f"It is {n}."} for n in range(100)]
    loaded = load(*rows, settings={"validation": 0.2})
    held = {n for n in range(50) if hash_fraction(f"What is {n}?") < 0.2}
    assert {item.origin.rpartition(":")[2] for item in loaded.validation} == {
        str(n + 1) for n in range(100) if n % 50 in held
    }
    assert len(loaded.train) == 100 - 2 * len(held)
    chats = [{"messages": [{"role": "user", "content": f"What is {n}?"}, ANSWER]} for n in range(50)]
    prompts = [{"prompt": [{"role": "user", "content": f"What is {n}?"}], "response": REPLY} for n in range(50)]
    first, second = (load(*form, settings={"validation": 0.2}) for form in (chats, prompts))
    assert [item.ids for item in first.validation] == [item.ids for item in second.validation] != []


def test_a_demonstration_of_the_held_out_ones_is_not_learnt_under_another_key(load):
    rows = [{"prompt": f"What is {n}?", "response": "7", "key": str(n)} for n in range(20)]
    rows += [{**row, "key": f"again {row['key']}"} for row in rows]
    loaded = load(*rows, settings={"validation": 0.2, "split_by": "key"})
    assert loaded.validation and not {i.ids for i in loaded.validation} & {i.ids for i in loaded.train}
    assert "is a held-out demonstration" in str(loaded.report)


def test_demonstrations_of_prompts_that_are_measured_are_left_out_in_every_form(load):
    asked, system = "What is 3 + 4 ?", {"role": "system", "content": "Be brief."}
    forms = [
        {"prompt": asked, "response": REPLY},
        {"prompt": [USER], "completion": [ANSWER]},
        {"messages": [system, USER, ANSWER]},
        {"messages": TALK},
        {"prompt": "what it is split by", "messages": TALK},
    ]
    others = [
        {"prompt": "What is 3 + 5 ?", "response": REPLY},
        {"prompt": "q", "response": REPLY, "messages": ["none", *TALK]},
    ]
    held = load(*forms, *others, held_prompts={asked})
    (source,) = held.report.sources
    assert source.left_out == {"is a held-out prompt": len(forms)} and source.train == len(held.train) == len(others)
    assert len(load(*forms, *others).train) == len(forms) + len(others)
    text = load({"text": asked}, {"text": f"{asked} 7"}, held_prompts={asked}, loss_on="text")
    assert text.report.sources[0].left_out == {"is a held-out prompt": 1} and len(text.train) == 1
    with pytest.raises(DataError, match=r"nothing left to train on.*as the prompts of evaluation\.sources are"):
        load(*forms, held_prompts={asked})


def test_what_is_held_out_anyway_stays_so_where_it_is_measured_too(load):
    rows = [{"prompt": f"What is {n}?", "response": "7"} for n in range(50)]
    plain = load(*rows, settings={"validation": 0.2})
    held = load(*rows, settings={"validation": 0.2}, held_prompts={row["prompt"] for row in rows[:40]})
    assert held.validation == plain.validation
    (source,) = held.report.sources
    assert source.read == source.train + source.validation + source.left_out.total()
    assert {item.origin for item in held.train} == {
        item.origin for item in plain.train if int(item.origin.rpartition(":")[2]) > 40
    }


def test_parquet_holds_conversations_too(tokenizer, tmp_path):
    path = tmp_path / "rows.parquet"
    rows = [{"messages": [{**message, "name": None} for message in TALK]}] * 2
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    settings = DataSettings(path=str(path), validation=0.0)
    loaded = load_demonstrations(settings, tokenizer)
    assert learnt(tokenizer, loaded.train[0]) == f"7<|im_end|>{REPLY}<|im_end|>"


def test_batches_are_epochs_over_all_rows_unless_sources_have_weights(tokenizer, tmp_path):
    sources = {}
    for name, count in (("many", 9), ("few", 3)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"prompt": f"{name} {n}", "response": "7"}) + "\n" for n in range(count)))
        sources[name] = {"path": str(path), "constants": {"of": name}}

    def counts(**weights):
        given = {name: {**source, **({"weight": weights[name]} if weights else {})} for name, source in sources.items()}
        settings = DataSettings(sources=given, validation=0.0)
        stream = epochs(load_demonstrations(settings, tokenizer), settings, batch_size=4)
        items = [item for step in range(3) for item in stream.batch(step)]
        assert [i.ids for i in stream.batch(1)] == [i.ids for i in items[4:8]]
        return [sum(item.columns["of"] == name for item in items) for name in sources], len({i.ids for i in items})

    assert counts() == ([9, 3], 12)
    assert counts(many=1.0, few=1.0) == ([6, 6], 9)
