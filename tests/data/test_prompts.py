from __future__ import annotations

import json
from collections import Counter

import pyarrow
import pyarrow.parquet
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from r1lit.data.files import DataError
from r1lit.data.prompts import load_prompts, measured_keys
from r1lit.data.settings import DataSettings, SourceSettings
from r1lit.data.splits import hash_fraction

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{{ '<think>\\n' }}"


@pytest.fixture(scope="module")
def tokenizer():
    """One token a byte, so that lengths can be counted by hand."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture
def write(tmp_path):
    def write(*rows, name="rows.jsonl"):
        path = tmp_path / name
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        return str(path)

    return write


def load(tokenizer, checks=(), **settings):
    return load_prompts(DataSettings(**{"template": "none", **settings}), tokenizer, checks)


def questions(count):
    return [{"prompt": f"What is {n} + {n}?", "answer": 2 * n} for n in range(count)]


def _halves(items):
    return items[: len(items) // 2], items[len(items) // 2 :]


def balanced(report):
    return all(
        source.read == source.train + source.validation + source.bad.total() + source.left_out.total()
        for source in report.sources
    )


def test_a_prompt_carries_its_row(tokenizer, write):
    path = write({"prompt": "1+1?", "answer": 2, "task": "arithmetic"}, {"prompt": "2+2?", "answer": 4})
    loaded = load(tokenizer, path=path, validation=0)
    first = loaded.train[0]
    assert (first.raw, first.columns, first.origin) == ("1+1?", {"answer": 2, "task": "arithmetic"}, f"{path}:1")
    assert tokenizer.decode(first.ids) == "1+1?"
    assert loaded.validation == []
    assert load(tokenizer, path=path, template="Q: {prompt} <think>").train[0].prefill == "<think>"


def test_message_lists_go_through_the_chat_template(tokenizer, write):
    messages = [{"role": "user", "content": "1+1? <think>", "name": None}]
    prompt = load(tokenizer, path=write({"prompt": messages})).train[0]
    assert tokenizer.decode(prompt.ids) == "<|im_start|>user\n1+1? <think><|im_end|>\n<think>\n"
    assert prompt.prefill == "<think>\n"
    assert prompt.raw == [{"role": "user", "content": "1+1? <think>"}]


def test_null_keys_of_messages_in_a_table_are_nothing(tokenizer, tmp_path):
    rows = [{"prompt": [{"role": "user", "content": f"{n}?", "name": None}]} for n in range(5)]
    schema = pyarrow.schema(
        [("prompt", pyarrow.list_(pyarrow.struct([(key, pyarrow.string()) for key in ("role", "content", "name")])))]
    )
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), tmp_path / "rows.parquet")
    loaded = load(tokenizer, path=str(tmp_path / "rows.parquet"), validation=0)
    assert [prompt.raw[0] for prompt in loaded.train] == [{"role": "user", "content": f"{n}?"} for n in range(5)]


BAD = {
    "empty prompt": {"prompt": " \n"},
    "missing column": {"question": "1+1?"},
    "broken JSON": b'{"prompt": ',
    "not UTF-8": b'{"prompt": "\xff"}',
    "not an object": b"[1]",
    "over-long prompt": {"prompt": "x" * 21},
    "bad prompt": {"prompt": [{"role": "robot", "content": "x"}]},
    "failed check": {"prompt": "1+1?", "answer": "many"},
}


def number_check(columns):
    return None if isinstance(columns.get("answer"), int) else f"answer={columns.get('answer')!r} is no number"


@pytest.mark.parametrize("reason", BAD)
def test_every_kind_of_bad_row_is_left_out_by_file_and_line(tokenizer, write, reason):
    good = questions(40)
    path = write(*good[:3], BAD[reason], *good[3:])
    loaded = load(tokenizer, [number_check], path=path, max_prompt_tokens=20, max_bad_rows=0.03)
    (source,) = loaded.report.sources
    assert source.bad == {reason: 1}
    assert source.examples[0].startswith(f"{path}:4: {reason}: ")
    assert len(loaded.train) + len(loaded.validation) == 40
    assert balanced(loaded.report)
    assert f"left out: {reason} 1" in str(loaded.report)


@pytest.mark.parametrize("prompt", ["", None, [], 5, {"role": "user"}, [5], [{"role": "user", "content": ""}]])
def test_what_is_no_prompt_is_no_prompt(tokenizer, write, prompt):
    loaded = load(tokenizer, path=write(*questions(9), {"prompt": prompt}), max_bad_rows=0.1)
    assert loaded.report.sources[0].bad.total() == 1


def test_a_prompt_may_be_as_long_as_the_limit(tokenizer, write):
    assert len(load(tokenizer, path=write({"prompt": "x" * 20}), max_prompt_tokens=20).train) == 1


def test_past_its_share_bad_rows_stop_the_run(tokenizer, write):
    rows = [*questions(16), *BAD.values()][:20]
    path = write(*rows)
    with pytest.raises(DataError) as error:
        load(tokenizer, path=path, max_bad_rows=0.1)
    said = str(error.value)
    assert "data.path: 4 of 20 rows are unusable" in said
    assert "broken JSON 1" in said
    assert f"{path}:17: empty prompt: " in said
    assert "data.max_bad_rows=0.2" in said
    assert len(load(tokenizer, path=path, max_bad_rows=0.2).train) > 0


def test_only_the_first_examples_of_a_reason_are_shown(tokenizer, write):
    with pytest.raises(DataError) as error:
        load(tokenizer, path=write(*questions(5), *[{"prompt": ""}] * 50, b"{"))
    assert str(error.value).count("empty prompt: ") == 3
    assert str(error.value).count("broken JSON: ") == 1


def test_no_usable_row_is_an_error_however_many_may_be_bad(tokenizer, write):
    with pytest.raises(DataError, match="has no usable row: missing column 2"):
        load(tokenizer, path=write({"q": "a"}, {"q": "b"}), max_bad_rows=1)
    with pytest.raises(DataError, match="has no rows"):
        load(tokenizer, path=write(b""), max_bad_rows=1)


def test_all_sources_mistakes_come_at_once(tokenizer, write):
    sources = {"a": {"path": write({"q": 1}, name="a.jsonl")}, "b": {"path": write({"q": 1}, name="b.jsonl")}}
    with pytest.raises(DataError, match=r"(?s)data\.sources\.a has no usable row.*data\.sources\.b has no usable row"):
        load(tokenizer, sources=sources)


def test_rows_are_held_out_by_the_hash_of_their_text(tokenizer, write):
    loaded = load(tokenizer, path=write(*questions(300)), validation=0.2)
    expected = {row["prompt"] for row in questions(300) if hash_fraction(row["prompt"]) < 0.2}
    assert {prompt.raw for prompt in loaded.validation} == expected
    assert 30 < len(expected) < 90
    assert {prompt.raw for prompt in loaded.train} == {row["prompt"] for row in questions(300)} - expected


def test_equal_prompts_stay_together_and_are_held_out_once(tokenizer, write):
    loaded = load(tokenizer, path=write(*questions(50), *questions(50)), validation=0.3)
    held = Counter(prompt.raw for prompt in loaded.validation)
    (source,) = loaded.report.sources
    assert set(held.values()) == {1}
    assert not held.keys() & {prompt.raw for prompt in loaded.train}
    assert source.repeats == len(loaded.train) / 2
    assert source.left_out == {"repeats a held-out prompt": len(held)}
    assert balanced(loaded.report)


def test_another_column_may_decide_but_no_prompt_is_on_both_sides(tokenizer, write):
    rows = [{"prompt": f"q{n % 20}", "id": n} for n in range(200)]
    loaded = load(tokenizer, path=write(*rows), split_by="id", validation=0.1)
    assert not {prompt.raw for prompt in loaded.validation} & {prompt.raw for prompt in loaded.train}
    assert loaded.report.sources[0].left_out["is a held-out prompt"] > 0
    assert balanced(loaded.report)


@pytest.mark.parametrize(("count", "share", "held"), [(1, 0.9, 0), (2, 0.01, 1), (2, 0.99, 1), (3, 0.0, 0)])
def test_few_rows_leave_some_on_each_side(tokenizer, write, count, share, held):
    loaded = load(tokenizer, path=write(*questions(count)), validation=share)
    assert (len(loaded.train), len(loaded.validation)) == (count - held, held)


def test_twenty_rows_always_train_and_validate(tokenizer, write):
    for start in range(0, 600, 20):
        loaded = load(tokenizer, path=write(*questions(620)[start : start + 20]))
        assert 1 <= len(loaded.validation) <= 10


def test_validation_prompts_from_a_file_of_their_own_are_not_trained_on(tokenizer, write):
    train, held = write(*questions(30)), write(*questions(5), name="held.jsonl")
    loaded = load(tokenizer, path=train, validation_path=held)
    assert sorted(prompt.raw for prompt in loaded.validation) == [row["prompt"] for row in questions(5)]
    assert [prompt.raw for prompt in loaded.train] == [row["prompt"] for row in questions(30)[5:]]
    assert [source.name for source in loaded.report.sources] == ["data.path", "data.validation_path"]
    assert balanced(loaded.report)
    with pytest.raises(DataError, match="nothing left to train on"):
        load(tokenizer, path=held, validation_path=held)


def test_a_source_may_have_any_name(tokenizer, write):
    sources = {"validation": {"path": write(*questions(30))}}
    loaded = load(tokenizer, sources=sources, validation_path=write(*questions(5), name="held.jsonl"))
    assert [(source.train, source.validation) for source in loaded.report.sources] == [(25, 0), (0, 5)]


def test_no_expression_is_trained_on_in_one_wording_and_held_out_in_another(tokenizer):
    params = {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1}
    sources = {
        "ours": {"generator": "arithmetic", "size": 800, "params": {"terms": [2, 3]}, "split_by": "expression"},
        "gym": {"reasoning_gym": "chain_sum", "size": 400, "params": params, "split_by": "expression", "weight": 2},
    }
    loaded = load(tokenizer, sources=sources)
    held = {prompt.columns["expression"] for prompt in loaded.validation}
    assert held == {e for e in held if hash_fraction(e) < 0.1}
    assert not held & {prompt.columns["expression"] for prompt in loaded.train}
    shares = [[p.columns["task"] for p in part].count("chain_sum") / len(part) for part in _halves(loaded.validation)]
    assert all(0.2 < share < 0.5 for share in shares)
    assert loaded.weights == {"ours": 1, "gym": 2}
    assert set(loaded.sources) == {"ours", "gym"}


def test_prompts_that_are_measured_elsewhere_are_not_trained_on(tokenizer, write):
    train, measured = questions(40), questions(30)[20:]
    chats = [row | {"prompt": [{"role": "user", "content": row["prompt"]}]} for row in measured[:5]]
    sources = {
        "plain": SourceSettings(path=write(*measured[5:], name="plain.jsonl")),
        "chats": SourceSettings(path=write(*chats, name="chats.jsonl")),
    }
    settings = DataSettings(path=write(*train), template="none", validation=0.0, limit=35)
    held = measured_keys(settings.model_copy(update={"limit": 1}), sources)
    assert held == {row["prompt"] for row in measured}, "a limit of this run's is none of the other's"
    loaded = load_prompts(settings, tokenizer, held_prompts=held)
    assert {prompt.raw for prompt in loaded.train} == {row["prompt"] for row in train[:20] + train[30:35]}
    assert loaded.report.sources[0].left_out == {"is a held-out prompt": 10} and balanced(loaded.report)
    assert measured_keys(settings, {}) == frozenset()
    with pytest.raises(DataError, match=r"evaluation\.sources\.bad has no usable row: missing column 1"):
        measured_keys(settings, {"bad": SourceSettings(path=write({"question": "1+1?"}, name="bad.jsonl"))})
