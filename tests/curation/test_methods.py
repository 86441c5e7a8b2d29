from __future__ import annotations

import json

import pytest

from r1lit.curation.methods import Method
from r1lit.curation.settings import CollectSettings, MethodSettings
from r1lit.models.loading import ModelSettings, load_tokenizer
from r1lit.settings import ConfigError, parse
from r1lit.text.templates import R1_ZERO
from r1lit.types import Prompt

EXAMPLES = [{"prompt": f"q{n}?", "response": f"<think> way {n} </think> <answer> {n} </answer>"} for n in range(3)]


def method(kind: str, template: str = "r1_zero", **settings) -> Method:
    return Method("mine", MethodSettings(kind=kind, **settings), template)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(ModelSettings(path="tiny"))


def put(made: Method, tokenizer, raw, number: int = 0) -> str:
    prompt = made.encoder(tokenizer)(number, Prompt((1,), raw, {"answer": "4"}, origin="file:1"))
    assert (prompt.raw, prompt.columns, prompt.origin) == (raw, {"answer": "4"}, "file:1")
    return tokenizer.decode(prompt.ids)


def test_outputs_are_asked_for_as_the_model_was_trained(tokenizer):
    assert put(method("outputs"), tokenizer, "2 + 2 = ?") == R1_ZERO.replace("{prompt}", "2 + 2 = ?")
    assert put(method("outputs", "Q: {prompt} A:"), tokenizer, "2?") == "Q: 2? A:"


def test_an_instruction_stands_behind_the_question(tokenizer):
    made = method("direct", "Q: {prompt} A:", instruction="Reflect and verify. ")
    assert put(made, tokenizer, "2 + 2?") == "Q: 2 + 2? Reflect and verify. A:"
    own = method("direct", "Q: {prompt} A:", instruction="Reflect.", layout="[{template}]")
    assert put(own, tokenizer, "2?") == "[Q: 2? Reflect. A:]"


def test_examples_stand_before_the_question_in_turn(tokenizer):
    made = method("few_shot", examples=EXAMPLES, shots=2, example="Q {prompt} A {response}; ")
    text = put(made, tokenizer, "2 + 2?", number=2)
    shown = "Q q2? A <think> way 2 </think> <answer> 2 </answer>; Q q0? A <think> way 0 </think> <answer> 0 </answer>; "
    assert text == R1_ZERO.replace("User: {prompt}", f"{shown}User: 2 + 2?")
    assert "way 1" in put(made, tokenizer, "2 + 2?", number=1) and "way 1" not in text
    own = method("few_shot", "Q: {prompt} A:", examples=EXAMPLES, shots=9, layout="{examples}{template}")
    assert put(own, tokenizer, "x").count("way") == 3


def test_tags_are_tokens_in_examples_and_text_in_questions(tokenizer):
    """An example shows the form in the model's own tokens; a question cannot speak in them."""
    made = method("few_shot", examples=EXAMPLES[:1])
    think = tokenizer.convert_tokens_to_ids("<think>")
    # R1-Zero's template names the tags itself, twice each.
    own = tokenizer(R1_ZERO)["input_ids"].count(think)
    prompt = made.encoder(tokenizer)(0, Prompt((1,), "Say <think>."))
    assert prompt.ids.count(think) == own + 1
    assert "Say <think>." in tokenizer.decode(prompt.ids)


def test_chat_messages_get_examples_as_turns_and_the_instruction_at_the_end():
    raw = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "2?"}]
    shots = method("few_shot", examples=EXAMPLES, shots=1).messages(1, raw)
    assert [(m["role"], m["content"]) for m in shots] == [
        ("system", "Be kind."),
        ("user", "q1?"),
        ("assistant", "<think> way 1 </think> <answer> 1 </answer>"),
        ("user", "2?"),
    ]
    direct = method("direct", instruction="Verify.").messages(0, raw)
    assert [m["content"] for m in direct] == ["Be kind.", "2?\n\nVerify."]
    assert raw[1]["content"] == "2?", "the data set's own messages stay as they are"


def test_a_completion_ends_where_the_next_question_begins():
    made = method("outputs", cut_after=["</answer>"], cut_before=["\nUser:", "\nQ:"])
    assert made.cut("<answer> 4 </answer>\n\nUser: next") == "<answer> 4 </answer>"
    assert made.cut("It is 4.\nUser: next </answer>") == "It is 4."
    assert made.cut("It is 4.\nQ: a\nUser: b") == "It is 4."
    assert made.cut("It is 4.") == "It is 4."
    assert method("outputs").cut("</answer> User:") == "</answer> User:"


def test_examples_from_a_file_stand_behind_those_set(tmp_path, tokenizer):
    path = tmp_path / "shots.jsonl"
    path.write_text(json.dumps({"prompt": "filed?", "response": "yes", "note": 1}) + "\n")
    made = method("few_shot", examples=EXAMPLES[:1], examples_path=str(path), shots=5)
    assert put(made, tokenizer, "x").index("way 0") < put(made, tokenizer, "x").index("filed?")
    assert made.fingerprint()["examples"] == [EXAMPLES[0], {"prompt": "filed?", "response": "yes"}]
    before = made.fingerprint()
    path.write_text(json.dumps({"prompt": "other?", "response": "yes"}) + "\n")
    assert method("few_shot", examples=EXAMPLES[:1], examples_path=str(path), shots=5).fingerprint() != before


def test_examples_that_cannot_be_used_are_named(tmp_path):
    path = tmp_path / "shots.jsonl"
    path.write_text('{"prompt": "a"}\nnothing\n{"prompt": "b", "response": "c"}\n')
    with pytest.raises(ConfigError) as caught:
        method("few_shot", examples_path=str(path))
    assert len(caught.value.problems) == 2 and "shots.jsonl:1" in caught.value.problems[0]
    with pytest.raises(ConfigError, match=r"'fill in \{prompt\}' holds \{prompt\}"):
        method("few_shot", examples=[{"prompt": "fill in {prompt}", "response": "x"}])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"kind": "few_shot"}, "kind=few_shot needs examples or examples_path; set it, or k=0"),
        ({"kind": "direct", "instruction": " "}, "kind=direct needs an instruction"),
        ({"kind": "few_shot", "examples": [{"prompt": "a"}]}, "examples[0] has prompt; an example has a prompt and"),
        ({"kind": "few_shot", "examples_path": "nowhere/x.jsonl"}, "nowhere/x.jsonl does not exist"),
        ({"kind": "outputs", "layout": "Q:"}, "needs one place for the question"),
        ({"kind": "outputs", "layout": "{prompt} {template}"}, "needs one place for the question"),
    ],
)
def test_mistakes_in_a_method_name_their_remedy(values, expected):
    with pytest.raises(ConfigError) as caught:
        parse({"collect": CollectSettings}, {"collect": {"methods": {"mine": values}}})
    (problem,) = caught.value.problems
    assert expected in problem


def test_a_method_that_is_off_needs_nothing():
    methods = {"few": {"kind": "few_shot", "k": 0}, "out": {"kind": "outputs", "model": ["a", "b"]}}
    chosen = CollectSettings(methods=methods)
    assert list(chosen.active) == ["out"] and chosen.active["out"].models == ["a", "b"]
    assert MethodSettings(kind="outputs").models == [None]
