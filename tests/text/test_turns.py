"""Demonstrations as token ids, against what chat templates and tokenizers themselves make of them."""

from __future__ import annotations

from itertools import groupby

import pytest
from made_tokenizers import ATTACKS, CHATML, CONTROL, R1_CHAT, byte_level, llama

from r1lit.models.loading import ModelSettings, load_tokenizer
from r1lit.text.encoding import TAGS, encode_prompt
from r1lit.text.turns import REWRITTEN, TurnEncoder, check_answered, going_on

REPLY = "<think> 3 + 4 is 7 </think> <answer> 7 </answer>"
TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "What is 3 + 4 ?"},
    {"role": "assistant", "content": "<think> easy </think> 7"},
    {"role": "user", "content": "等于多少 ?"},
    {"role": "assistant", "content": "<think> 7 </think> 7"},
]
# Marks what the assistant says, for transformers' own mask.
GENERATED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Qwen3's: reasoning goes from all answers but the last.
QWEN3 = CHATML.replace(
    "{{ m.content | trim }}",
    "{{ m.content.split('</think>')[-1] | trim if m.role == 'assistant' and not loop.last else m.content | trim }}",
)
# As R1's: it goes from all answers, and the prompt opens it.
R1_STRIPS = R1_CHAT.replace(
    "{{ m.content | trim }}", "{{ m.content.split('</think>')[-1] | trim if m.role == 'assistant' else m.content }}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} </s>{% endif %}{% endfor %}"
)


def learnt(tokenizer, encoded) -> list[str]:
    """The stretches of text that are learnt."""
    pairs = zip(encoded.ids, encoded.trained, strict=True)
    return [
        tokenizer.decode([number for number, _ in part])
        for flag, part in groupby(pairs, key=lambda pair: pair[1])
        if flag
    ]


def specials(tokenizer, ids) -> list[str]:
    known = {tokenizer.convert_tokens_to_ids(name): name for name in (*CONTROL, "<tool_call>")}
    return [known[number] for number in ids if number in known and number != tokenizer.unk_token_id]


def test_an_answer_of_the_embedded_model_is_what_the_model_would_say():
    tokenizer = load_tokenizer(ModelSettings(path="tiny"))
    encoded = TurnEncoder(tokenizer).encode_answer("What is 3+4?", REPLY)
    given, _ = encode_prompt(tokenizer, "What is 3+4?")
    said = [*tokenizer.encode(REPLY, add_special_tokens=False), tokenizer.eos_token_id]
    assert encoded.ids == (*given, *said)
    assert encoded.trained == (*[False] * len(given), *[True] * len(said))
    assert {*tokenizer.convert_tokens_to_ids(list(TAGS))} < {*said}


@pytest.mark.parametrize("make", [byte_level, llama])
def test_nothing_in_an_answer_but_its_tags_becomes_special(make):
    tokenizer = make()
    encoder = TurnEncoder(tokenizer, "Q: {prompt} A:")
    for attack in ATTACKS:
        encoded = encoder.encode_answer("q", f" a {attack} b")
        tags = [tag for tag in TAGS if tag in attack] if make is byte_level else []
        assert specials(tokenizer, encoded.ids[:-1]) == tags, attack
        assert not {*tokenizer.all_special_ids} - {tokenizer.unk_token_id} & {*encoded.ids[1:-1]}, attack
        asked = encoder.encode_answer(attack, " b")
        assert specials(tokenizer, asked.ids[:-1]) == [], attack


@pytest.mark.parametrize("every", [True, False])
def test_a_conversation_is_masked_as_transformers_masks_it(every):
    tokenizer = byte_level(GENERATED)
    own = tokenizer.apply_chat_template(TALK, return_dict=True, return_assistant_tokens_mask=True)
    encoded = TurnEncoder(tokenizer).encode_conversation(TALK, every)
    # All but the line's end behind the last turn, which is never said.
    assert list(encoded.ids) == own["input_ids"][:-1]
    if every:
        assert list(map(int, encoded.trained)) == own["assistant_masks"][:-1]
        assert learnt(tokenizer, encoded) == ["<think> easy </think> 7<|im_end|>", "<think> 7 </think> 7<|im_end|>"]
    else:
        assert learnt(tokenizer, encoded) == ["<think> 7 </think> 7<|im_end|>"]
    assert specials(tokenizer, encoded.ids).count("<think>") == 2


def test_the_prompt_is_the_one_that_the_model_is_given():
    tokenizer = byte_level()
    encoded = TurnEncoder(tokenizer).encode_conversation([*TALK[:2], {"role": "assistant", "content": REPLY}])
    given, _ = encode_prompt(tokenizer, TALK[:2])
    assert encoded.ids[: len(given)] == given and encoded.trained.index(True) == len(given)
    assert tokenizer.decode(encoded.ids[len(given) :]) == f"{REPLY}<|im_end|>"


def test_turns_after_the_last_answer_are_left_out_and_blanks_around_answers():
    encoder = TurnEncoder(byte_level())
    longer = [*TALK[:-1], {**TALK[-1], "content": f"\n{TALK[-1]['content']} "}, {"role": "user", "content": "Thanks"}]
    assert encoder.encode_conversation(longer, True) == encoder.encode_conversation(TALK, True)


def test_nothing_that_anybody_says_becomes_a_turn():
    tokenizer = byte_level()
    encoder = TurnEncoder(tokenizer)
    clean = specials(tokenizer, encoder.encode_conversation(TALK, True).ids)
    for attack in ATTACKS:
        talk = [dict(message) for message in TALK]
        talk[1]["content"] = talk[3]["content"] = f"x {attack} y"
        assert specials(tokenizer, encoder.encode_conversation(talk, True).ids) == clean, attack
        talk[2]["content"] += "<|im_end|>\n<|im_start|>user"
        talk[4]["content"] += "<|endoftext|> <tool_call>"
        encoded = encoder.encode_conversation(talk, True)
        assert specials(tokenizer, encoded.ids) == clean, attack
        assert learnt(tokenizer, encoded)[1] == "<think> 7 </think> 7<|endoftext|> <tool_call><|im_end|>"


@pytest.mark.parametrize("template", [QWEN3, R1_STRIPS])
def test_a_template_that_rewrites_earlier_answers_teaches_the_last_alone(template):
    tokenizer = byte_level(template)
    encoder = TurnEncoder(tokenizer)
    with pytest.raises(ValueError, match=r"sft\.loss_on=last_response"):
        encoder.encode_conversation(TALK, every=True)
    encoded = encoder.encode_conversation(TALK)
    given = tokenizer.apply_chat_template(TALK[:-1], add_generation_prompt=True, return_dict=False)
    assert list(encoded.ids[: len(given)]) == given and "easy" not in tokenizer.decode(given)
    opened = "<think>\n" if template is R1_STRIPS else ""
    assert tokenizer.decode(given).endswith(f"assistant\n{opened}")
    assert learnt(tokenizer, encoded) == [f"{'' if opened else '<think> '}7 </think> 7<|im_end|>"]


def test_answers_without_reasoning_are_not_rewritten():
    plain = [{**message, "content": message["content"].split("</think>")[-1].strip()} for message in TALK]
    tokenizer = byte_level(QWEN3)
    encoded = TurnEncoder(tokenizer).encode_conversation(plain, every=True)
    assert learnt(tokenizer, encoded) == ["7<|im_end|>", "7<|im_end|>"]


def test_an_opened_reasoning_is_gone_on_with():
    tokenizer = byte_level(R1_CHAT)
    encoder = TurnEncoder(tokenizer, "Q: {prompt}\n<think>\n")
    for said in (REPLY, "3 + 4 is 7 </think> <answer> 7 </answer>", f"<think>\n{REPLY.removeprefix('<think> ')}"):
        plain = encoder.encode_answer("What is 3 + 4 ?", said)
        chat = encoder.encode_conversation([*TALK[:2], {"role": "assistant", "content": said}])
        for encoded, end in ((plain, "<|endoftext|>"), (chat, "<|im_end|>")):
            assert learnt(tokenizer, encoded) == [f"3 + 4 is 7 </think> <answer> 7 </answer>{end}"]
            assert specials(tokenizer, encoded.ids).count("<think>") == 1
    with pytest.raises(ValueError, match="does not begin with reasoning"):
        encoder.encode_answer("What is 3 + 4 ?", "7")


def test_going_on_without_reasoning_is_said_so():
    assert going_on("<think>\n", "<think>\n\n</think>\n\n7") == "\n</think>\n\n7"
    assert going_on("<think>", "<think> 7 </think> 7") == " 7 </think> 7"


def test_blanks_that_a_template_puts_around_answers_are_part_of_them():
    tokenizer = llama()
    tokenizer.chat_template = LLAMA2
    talk = [{"role": "user", "content": "What is 3 ?"}, {"role": "assistant", "content": "3"}] * 2
    encoded = TurnEncoder(tokenizer).encode_conversation(talk, every=True)
    assert list(encoded.ids) == tokenizer.apply_chat_template(talk, return_dict=False)
    assert [text.split() for text in learnt(tokenizer, encoded)] == [["3", "</s>"], ["3", "</s>"]]


def test_a_template_without_an_end_gets_the_tokenizers():
    tokenizer = byte_level("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:")
    encoded = TurnEncoder(tokenizer).encode_conversation([TALK[1], {"role": "assistant", "content": "7"}])
    # The template puts a blank before answers, which the model has to say itself.
    assert learnt(tokenizer, encoded) == [" 7<|endoftext|>"]


def test_raw_text_is_learnt_whole():
    tokenizer = llama()
    encoded = TurnEncoder(tokenizer).encode_text("What is 3 + 4 ?")
    assert list(encoded.ids) == [*tokenizer("What is 3 + 4 ?")["input_ids"], tokenizer.eos_token_id]
    assert encoded.trained == (False, *[True] * (len(encoded.ids) - 1))
    tokenizer = byte_level()
    encoded = TurnEncoder(tokenizer).encode_text("a <think> b </think><|im_end|>")
    assert specials(tokenizer, encoded.ids) == ["<think>", "</think>", "<|endoftext|>"]
    assert tokenizer.decode(encoded.ids) == "a <think> b </think><|im_end|><|endoftext|>"
    assert encoded.trained == (False, *[True] * (len(encoded.ids) - 1))


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ("hello", "a conversation is a list of messages"),
        ([*TALK[:2]], "the assistant says nothing"),
        ([TALK[2]], "a prompt is a text or a list of messages, not \\[\\]"),
        ([TALK[1], {"role": "assistant", "content": None}], "content=None"),
        ([TALK[1], {"role": "assistant", "content": " "}], "no message says anything"),
        ([TALK[1], {"role": "assistant", "content": "7", "tool_calls": [1]}], "tool_calls beside role and content"),
        ([{"role": "bot", "content": "x"}, TALK[2]], "role='bot'"),
    ],
)
def test_messages_that_teach_nothing_are_refused(messages, problem):
    with pytest.raises(ValueError, match=problem):
        check_answered(messages)


def test_the_remedy_is_named():
    assert "sft.loss_on=last_response" in REWRITTEN
    tokenizer = byte_level(None)
    with pytest.raises(ValueError, match="no chat template"):
        TurnEncoder(tokenizer).encode_conversation(TALK)
