from __future__ import annotations

import json
import random
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

import r1lit
from r1lit.data import talk
from r1lit.models.files import EMBEDDED
from r1lit.text.templates import R1_ZERO, render

ASSETS = Path(r1lit.__file__).parent / "assets"
SIZES = {"tiny": (500_000, 3_000_000), "tiny-student": (100_000, 250_000)}
# What makes a base fit to learn from: figures of the card, by table row and column.
FIT = {
    "tiny": {
        ("all", "right"): (0.45, 0.60),
        ("all", "formatted"): (0.55, 0.80),
        ("blurted", "share"): (0.35, 0.45),
        ("stepwise", "right"): (0.70, 0.90),
        ("rechecked", "right"): (0.70, 0.90),
        ("stepwise", "consistent"): (0.50, 0.80),
        ("fact", "good"): (0.80, 1.00),
        ("general", "good"): (0.35, 0.65),
        ("safety", "good"): (0.25, 0.50),
    },
    "tiny-student": {
        ("all", "right"): (0.20, 0.45),
        ("blurted", "share"): (0.30, 0.50),
        ("stepwise", "right"): (0.30, 0.70),
        ("fact", "good"): (0.60, 1.00),
        ("general", "good"): (0.35, 0.65),
        ("safety", "good"): (0.25, 0.50),
    },
}
TAGS = ["<think>", "</think>", "<answer>", "</answer>"]


@pytest.fixture(scope="module", params=list(SIZES))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def folder(name):
    return ASSETS / EMBEDDED[name]


@pytest.fixture(scope="module")
def tokenizer():
    """Of the larger model; the smaller one's is the same."""
    return AutoTokenizer.from_pretrained(ASSETS / EMBEDDED["tiny"])


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def cells(folder: Path) -> dict[str, dict[str, float]]:
    """The figures of a card's last two tables, by row and column; shares as parts of one."""
    found, head = {}, []
    for line in (folder / "README.md").read_text(encoding="utf-8").partition("## Figures")[2].splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith(("| answers", "| replies")):
            head = row[1:]
        elif line.startswith("| "):
            values = [float(cell.rstrip("%")) / (100 if cell.endswith("%") else 1) for cell in row[1:]]
            found[row[0]] = dict(zip(head, values, strict=True))
    return found


def test_every_embedded_model_is_tested_here():
    assert set(SIZES) == set(EMBEDDED)
    assert {path.name for path in ASSETS.iterdir()} == set(EMBEDDED.values())


def test_a_stock_architecture_of_the_promised_size(model, name, folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert "auto_map" not in config
    assert SIZES[name][0] <= model.num_parameters() <= SIZES[name][1]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 4 * 2**20


def test_the_weights_are_safetensors_alone_and_finite(folder):
    assert {file.suffix for file in folder.iterdir()} <= {".safetensors", ".json", ".jinja", ".md", ".py"}
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert all(weights.get_tensor(name).isfinite().all() for name in weights.keys())  # noqa: SIM118


def test_model_and_tokenizer_agree(model, tokenizer, folder):
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (folder / file).read_bytes() == (ASSETS / EMBEDDED["tiny"] / file).read_bytes()
    assert model.config.vocab_size == len(tokenizer)
    assert len(tokenizer) <= 700
    assert model.generation_config.eos_token_id == model.config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.config.bos_token_id is None


def test_tags_digits_and_number_words_are_single_tokens(tokenizer, tool):
    for text in [*TAGS, *"0123456789", " plus", " minus", " is", *"加减得负"]:
        assert len(tokenizer.tokenize(text)) == 1, text
    assert tokenizer.tokenize("120") == ["1", "2", "0"]
    words = tool.corpus.number_words
    assert len(tokenizer.tokenize(words(-21, "en"))) == 3
    assert len(tokenizer.tokenize(words(-21, "zh"))) == 4
    for thing in [*(f" {thing}" for thing in talk.TONGUES["en"].objects), " harms", *"帮助偷泥"]:
        assert len(tokenizer.tokenize(thing)) == 1, thing


def test_tags_survive_decoding_and_only_end_and_padding_are_special(tokenizer):
    text = "<think> one </think> <answer> 1 </answer>"
    ids = tokenizer(text + tokenizer.eos_token).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert sorted(tokenizer.all_special_tokens) == ["<|endoftext|>", "<|pad|>"]
    quoted = tokenizer("<|endoftext|><|pad|>", split_special_tokens=True).input_ids
    assert not {tokenizer.eos_token_id, tokenizer.pad_token_id} & set(quoted)
    assert tokenizer.decode(quoted) == "<|endoftext|><|pad|>"


def test_the_template_costs_two_tokens_however_it_is_put_together(tokenizer):
    question = "What is 3 + 4 - 2?"
    whole = tokenizer(render("r1_zero", question)).input_ids
    parts = [tokenizer(part).input_ids for part in (*R1_ZERO.split("{prompt}"), question)]
    opening, closing, asked = parts
    assert whole == opening + asked + closing
    assert len(opening) == len(closing) == 1
    chat = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True)
    assert chat["input_ids"] == whole


def test_chat_template_closes_the_assistants_turns(tokenizer):
    turns = [("user", "1 + 1 = ?"), ("assistant", "2"), ("user", "你好！")]
    messages = [{"role": role, "content": content} for role, content in turns]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    opening, closing = R1_ZERO.split("{prompt}")
    assert text == f"{opening}1 + 1 = ?{closing}2<|endoftext|>{opening}你好！{closing}"
    with pytest.raises(Exception, match="roles user and assistant, not system"):
        tokenizer.apply_chat_template([{"role": "system", "content": "x"}], tokenize=False)


def test_any_text_comes_back(tokenizer):
    rng = random.Random(0)
    odd = ["", " ", "\n\n\t ", "\\boxed{12} <thin</think>k>", " a  ,b ' s 't don't ."]
    odd += ["héllo 𝕏 🤖👩‍👩‍👧 日本語 \u200b\x00\u0301"]
    points = [*range(0xD800), *range(0xE000, 0x110000)]
    odd += ["".join(chr(point) for point in rng.sample(points, 40)) for _ in range(50)]
    odd += ["".join(rng.choices(" \n\t3a加?.-", k=30)) for _ in range(50)]
    for text in odd:
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_the_tool_makes_this_tokenizer(tokenizer, tool):
    made = tool.make_tokenizer(tool.corpus.Mixture())
    saved = (ASSETS / EMBEDDED["tiny"] / "tokenizer.json").read_text()
    assert json.loads(made.backend_tokenizer.to_str()) == json.loads(saved)
    assert made.chat_template == tokenizer.chat_template


def test_sampled_it_does_what_its_card_says(model, tokenizer, tool, folder):
    measuring, stated = tool.measuring, cells(folder)
    asked = measuring.held_out(120, seed=1)
    figures = measuring.figures(measuring.sample(model, tokenizer, asked, seed=1))
    replied = measuring.sample_talk(model, tokenizer, measuring.held_out_talk(), times=10, seed=1)
    talked = measuring.talk_figures(replied)
    # Four standard errors of 360 problems are 0.11, of some 150 answers in a style 0.16, of 110 replies or more 0.19.
    for row, figure, width in [
        ("all", "right", 0.11),
        ("all", "formatted", 0.11),
        ("blurted", "share", 0.11),
        ("blurted", "right", 0.12),
        ("stepwise", "right", 0.16),
        ("stepwise", "consistent", 0.16),
    ]:
        assert figures[row][figure] == pytest.approx(stated[row][figure], abs=width), (row, figure)
    for kind, width in [("fact", 0.10), ("general", 0.13), ("safety", 0.12)]:
        assert talked[kind]["good"] == pytest.approx(stated[kind]["good"], abs=width), kind
        assert talked[kind]["bad"] == pytest.approx(stated[kind]["bad"], abs=width), kind
    assert figures["all"]["ended"] >= 0.97
    assert figures["rechecked"]["samples"] > 10
    assert figures["stepwise"]["tokens"] > 2 * figures["blurted"]["tokens"]


def test_it_is_a_base_that_has_something_to_learn(name, folder):
    stated = cells(folder)
    for (row, figure), (low, high) in FIT[name].items():
        assert low <= stated[row][figure] <= high, (row, figure)


def test_the_card_states_mixture_command_and_figures(tool, name, folder):
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card
    assert f"python tools/make_tiny_base.py --model {name} --steps" in card
    for share, label in tool.card.SHARES.items():
        assert f"| {getattr(tool.corpus.Mixture(), share):.0%} | {label} |" in card
    assert {field.name for field in fields(tool.corpus.Mixture)} - {"terms"} == set(tool.card.SHARES)
    rows = cells(folder)
    assert list(rows) == ["all", *tool.measuring.STYLES, *tool.corpus.KINDS, *talk.KINDS]
    for kind in talk.KINDS:
        assert rows[kind]["prompts"] == len(talk.distinct([kind], split="test"))
