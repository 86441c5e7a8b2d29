from __future__ import annotations

from pathlib import Path

import pytest
from made_tokenizers import ATTACKS, CONTROL, R1_CHAT, byte_level, llama
from tokenizers import AddedToken, normalizers
from transformers import AutoTokenizer

from r1lit.text.encoding import TAGS, PromptEncoder, check_messages, encode_prompt
from r1lit.text.templates import TEMPLATES, render

TINY = Path(__file__).parents[2] / "r1lit" / "assets" / "tiny"


@pytest.fixture(scope="module")
def qwen():
    return byte_level()


@pytest.mark.parametrize("template", [*TEMPLATES, "<|im_start|>{prompt}<|im_end|>"])
@pytest.mark.parametrize("prompt", ["What is 3 + 4?", "等于多少 🤔", " spaced\n", "im_end|> think>", "<|im_end |>"])
def test_ordinary_text_is_encoded_in_one_go(qwen, template, prompt):
    ids, prefill = encode_prompt(qwen, prompt, template)
    assert list(ids) == qwen(render(template, prompt), add_special_tokens=False)["input_ids"]
    assert prefill == ""


@pytest.mark.parametrize("template", [*TEMPLATES, "<|im_start|>{prompt}<|im_end|>"])
@pytest.mark.parametrize("prompt", ATTACKS)
def test_no_plain_text_becomes_a_special_token(qwen, template, prompt):
    ids, _ = encode_prompt(qwen, prompt, template)
    special = set(qwen.convert_tokens_to_ids([*CONTROL, "<tool_call>"]))
    harmless, _ = encode_prompt(qwen, "x", template)
    assert [n for n in ids if n in special] == [n for n in harmless if n in special]
    assert qwen.decode(ids) == render(template, prompt)


@pytest.mark.parametrize("prompt", ATTACKS)
def test_no_message_becomes_a_special_token(qwen, prompt):
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": prompt}]
    ids, prefill = encode_prompt(qwen, messages)
    starts, ends = (qwen.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<|im_end|>"))
    assert (ids.count(starts), ids.count(ends), prefill) == (3, 2, "")
    assert not set(qwen.convert_tokens_to_ids([*TAGS, "<|endoftext|>", "<tool_call>"])) & set(ids)
    said = f"Be kind.<|im_end|>\n<|im_start|>user\n{prompt.strip()}<|im_end|>\n<|im_start|>assistant\n"
    assert qwen.decode(ids) == f"<|im_start|>system\n{said}"


def test_ordinary_messages_equal_the_chat_templates_own_ids(qwen):
    messages = [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "等于多少"},
    ]
    own = qwen.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert list(encode_prompt(qwen, messages)[0]) == own


def test_text_next_to_an_attack_keeps_its_own_tokens(qwen):
    ids, _ = encode_prompt(qwen, "What is<think> What is", "none")
    before, after = qwen("What is")["input_ids"], qwen(" What is")["input_ids"]
    assert list(ids) == [*before, *(qwen.convert_tokens_to_ids(letter) for letter in "<think>"), *after]


def test_a_token_across_the_seam_of_template_and_text_is_refused(qwen):
    with pytest.raises(ValueError, match=r"special tokens \['<think>'\]"):
        encode_prompt(qwen, "nk> hello", "<thi{prompt}")


def test_a_tokenizer_that_rewrites_text_into_a_token_is_refused():
    tokenizer = byte_level()
    core = tokenizer.backend_tokenizer
    core.normalizer = normalizers.NFKC()
    tokenizer.add_tokens([AddedToken("<hint>", normalized=True)])
    assert tokenizer.convert_tokens_to_ids("<hint>") in tokenizer("＜hint＞")["input_ids"]
    with pytest.raises(ValueError, match="<hint>"):
        encode_prompt(tokenizer, "＜hint＞", "none")


def test_an_opened_think_tag_is_the_answers_prefill():
    tokenizer = byte_level(R1_CHAT)
    ids, prefill = encode_prompt(tokenizer, [{"role": "user", "content": "<think>"}])
    assert prefill == "<think>\n"
    assert ids.count(tokenizer.convert_tokens_to_ids("<think>")) == 1
    assert encode_prompt(tokenizer, "1+1", "Q: {prompt} A: <think>")[1] == "<think>"


def test_a_think_tag_typed_by_the_user_is_no_prefill(qwen):
    assert encode_prompt(qwen, "Say <think>", "none")[1] == ""


@pytest.mark.parametrize("prompt", ["What is 3 ?", "a<s>b</s> <think> 3", "</s></s>", "<s>"])
def test_bos_comes_exactly_once(prompt):
    tokenizer = llama()
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    for template, text in [*TEMPLATES.items(), ("<s>{prompt}", "{prompt}")]:
        ids, _ = encode_prompt(tokenizer, prompt, template)
        assert ids[0] == bos
        assert (ids.count(bos), ids.count(eos)) == (1, 0)
        assert tokenizer.decode(ids, skip_special_tokens=True) == render(text, prompt)


def test_no_bos_where_the_tokenizer_puts_none():
    tokenizer = llama(adds_bos=False)
    assert tokenizer.bos_token_id not in encode_prompt(tokenizer, "What is 3 ?", "none")[0]
    named = byte_level(bos_token="<|endoftext|>")
    assert named.bos_token_id not in encode_prompt(named, "What", "none")[0]


def test_a_chat_template_brings_its_own_bos():
    tokenizer = llama()
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}[{{ m.content }}]{% endfor %}"
    ids, _ = encode_prompt(tokenizer, [{"role": "user", "content": "What is <s> ?"}])
    assert ids.count(tokenizer.bos_token_id) == 1


def test_what_a_chat_template_refuses_is_said():
    tokenizer = byte_level("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ValueError, match="roles must alternate"):
        encode_prompt(tokenizer, [{"role": "user", "content": "x"}])
    with pytest.raises(ValueError, match="no chat template; give plain text prompts"):
        encode_prompt(byte_level(None), [{"role": "user", "content": "x"}])


def test_a_prompt_without_tokens_is_refused(qwen):
    with pytest.raises(ValueError, match="has no tokens"):
        encode_prompt(qwen, "", "none")


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "not \\[\\]"),
        (["hello"], "message 1 is 'hello'"),
        ([{"role": "user", "content": "x"}, {"role": "<|im_end|>", "content": "x"}], "message 2 has role='<|im_end|>'"),
        ([{"role": "user", "content": None}], "content=None, which is no text"),
        ([{"role": "user", "content": "x", "tool_calls": [1]}], "tool_calls beside role and content"),
        ([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "the assistant's"),
        ([{"role": "system", "content": "Obey."}, {"role": "user", "content": " "}], "no message says anything"),
        (5, "not 5"),
    ],
)
def test_messages_that_are_no_conversation_are_refused(messages, said):
    with pytest.raises(ValueError, match=said.replace("|", r"\|")):
        check_messages(messages)


@pytest.mark.skipif(not (TINY / "tokenizer.json").exists(), reason="the tiny model has not been made")
@pytest.mark.parametrize("prompt", ["3 + 4 等于多少？", "naïve 🤔 text\n", ". Assistant: <answer>", *ATTACKS])
def test_the_tiny_models_tokenizer_is_guarded_too(prompt):
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    encoder = PromptEncoder(tokenizer)
    ids, _ = encoder.encode(prompt)
    special = {*tokenizer.added_tokens_decoder}
    harmless, _ = encoder.encode("x")
    assert [n for n in ids if n in special] == [n for n in harmless if n in special]
    assert tokenizer.decode(ids, skip_special_tokens=False) == render("r1_zero", prompt)
