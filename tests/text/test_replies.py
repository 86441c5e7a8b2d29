"""Question and reply as one row, under the tokenizers of `test_encoding`."""

from __future__ import annotations

import pytest
from made_tokenizers import ATTACKS, R1_CHAT, byte_level, llama

from r1lit.models.loading import ModelSettings, load_tokenizer
from r1lit.text.encoding import TAGS
from r1lit.text.replies import PARTS, ReplyEncoder

REPLY = "<think> 3 + 4 is 7 </think> <answer> 7 </answer>"
QUESTION = [{"role": "user", "content": "What is 3 + 4 ?"}]


def test_a_row_of_the_embedded_model_is_what_the_model_itself_would_read():
    tokenizer = load_tokenizer(ModelSettings(path="tiny"))
    encoder = ReplyEncoder(tokenizer)
    prompt, _ = encoder.encode("What is 3+4?")
    row = encoder.encode_row("What is 3+4?", REPLY)
    assert row[: len(prompt)] == prompt and row[-1] == tokenizer.eos_token_id
    assert list(row[len(prompt) : -1]) == tokenizer.encode(f" {REPLY}", add_special_tokens=False)
    assert tokenizer.decode(row[len(prompt) : -1]) == f" {REPLY}"
    tags = tokenizer.convert_tokens_to_ids(list(TAGS))
    assert [number for number in row[len(prompt) :] if number in tags] == tags


@pytest.mark.parametrize("make", [byte_level, llama])
def test_nothing_in_a_reply_but_its_tags_becomes_special(make):
    tokenizer = make()
    encoder = ReplyEncoder(tokenizer, "Q: {prompt} A:")
    prompt, _ = encoder.encode("q")
    special = {*tokenizer.all_special_ids, *tokenizer.convert_tokens_to_ids(["<tool_call>"])} - {tokenizer.unk_token_id}
    for attack in ATTACKS:
        said = encoder.encode_row("q", f"a {attack} b")[len(prompt) : -1]
        assert not special & {*said}, attack
        if make is byte_level and "\ue000" not in attack:
            assert tokenizer.decode(said) == f" a {attack} b"


def test_tags_are_tokens_where_the_tokenizer_has_them():
    tokenizer = byte_level()
    tags = dict(zip(tokenizer.convert_tokens_to_ids(list(TAGS)), TAGS, strict=True))
    said = ReplyEncoder(tokenizer).encode_reply("x <|im_end|> <think> y </think>")
    assert [tags[number] for number in said if number in tags] == ["<think>", "</think>"]


def test_a_template_that_opens_the_reasoning_leaves_it_to_the_reply():
    opened, plain = ReplyEncoder(byte_level(R1_CHAT)), ReplyEncoder(byte_level())
    assert opened.encode_row(QUESTION, REPLY) == plain.encode_row(QUESTION, REPLY)
    assert opened.encode(QUESTION)[1] == ""
    tricky = [{"role": "user", "content": "What is <think>"}]
    assert opened.encode_row(tricky, "7") == plain.encode_row(tricky, "7")


def test_a_reply_goes_on_from_its_question():
    """Llama 2's kind would begin it with a space mark of its own."""
    tokenizer = llama()
    encoder = ReplyEncoder(tokenizer, "{prompt} Assistant:")
    whole = tokenizer("What is 3 + 4 ? Assistant: 7", add_special_tokens=True)["input_ids"]
    assert list(encoder.encode_row("What is 3 + 4 ?", "7")) == [*whole, tokenizer.eos_token_id]


def test_a_reply_needs_an_end():
    tokenizer = byte_level()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no eos token"):
        ReplyEncoder(tokenizer)


@pytest.mark.parametrize(
    ("reply", "answer", "response"),
    [
        (REPLY, "7", REPLY),
        (" Just 7. ", "Just 7.", "Just 7."),
        ("<think> on and on", None, "<think> on and on"),
        ("  ", None, None),
    ],
)
def test_parts(reply, answer, response):
    assert (PARTS["answer"](reply), PARTS["response"](reply)) == (answer, response)
