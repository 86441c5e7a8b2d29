from __future__ import annotations

import json
import random
import re
import sys
from collections import Counter
from dataclasses import fields
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

import r1lit
from r1lit.data import talk
from r1lit.data.splits import is_held_out
from r1lit.models.loading import EMBEDDED
from r1lit.text.templates import R1_ZERO, render

ASSETS = Path(r1lit.__file__).parent / "assets"
SIZES = {"tiny": (500_000, 3_000_000), "tiny-student": (100_000, 250_000)}
TOOLS = Path(__file__).parents[2] / "tools"
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


@pytest.fixture(scope="module")
def tool():
    """The modules that made the model."""
    sys.path.insert(0, str(TOOLS))
    try:
        import make_tiny_base

        yield make_tiny_base
    finally:
        sys.path.remove(str(TOOLS))


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
    own = AutoTokenizer.from_pretrained(folder)
    assert own.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert own.chat_template == tokenizer.chat_template
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


def test_sampled_it_is_a_base_that_has_something_to_learn(model, tokenizer, tool):
    measuring = tool.measuring
    asked = measuring.held_out(120, seed=1)
    figures = measuring.figures(measuring.sample(model, tokenizer, asked, seed=1))
    # 360 samples: the share of one in two is known to 0.08 at three standard errors.
    assert 0.27 <= figures["all"]["right"] <= 0.63
    assert 0.42 <= figures["all"]["formatted"] <= 0.78
    assert figures["all"]["ended"] >= 0.97
    assert 0.20 <= figures["blurted"]["share"] <= 0.55
    assert figures["blurted"]["right"] < 0.40
    assert figures["stepwise"]["right"] > 0.60
    assert figures["rechecked"]["samples"] > 10
    assert figures["stepwise"]["tokens"] > 2 * figures["blurted"]["tokens"]


def test_the_corpus_holds_no_held_out_problem(tool):
    corpus, seen = tool.corpus, set()
    for kind in corpus.KINDS:
        source = corpus.problems(kind, 0, "train", (2, 5))
        seen |= {next(source).expression for _ in range(2000)}
    tests = {problem.expression for problem in tool.measuring.held_out(500, seed=2)}
    assert tests and not tests & seen


def test_the_corpus_answers_in_the_shares_that_the_mixture_states(tool):
    corpus, measuring = tool.corpus, tool.measuring
    mixture, rng = corpus.Mixture(), random.Random(0)
    source = corpus.problems("en", 0, "train", (3, 5))
    answered = [
        measuring.Answered(problem, corpus.answer(problem, mixture, rng), 0, True)
        for problem, _ in zip(source, range(4000), strict=False)
    ]
    figures = measuring.figures(answered)
    # Four standard errors of 4,000 draws are at most 0.032, of the 1,600 blurted ones 0.045, of 700 re-checked 0.08.
    assert figures["blurted"]["share"] == pytest.approx(mixture.blurted_share, abs=0.032)
    assert figures["rechecked"]["share"] == pytest.approx(mixture.rechecked_share, abs=0.032)
    assert figures["blurted"]["right"] == pytest.approx(mixture.lucky_share, abs=0.045)
    assert figures["blurted"]["formatted"] == pytest.approx(mixture.hollow_share, abs=0.045)
    stepwise = [one for one in answered if one.style != "blurted"]
    # A re-checked step is off the first time or it is not: the numbers on both sides of the check tell.
    number = "([a-z ]+|[零一二三四五六七八九十负]+)"
    again = re.compile(rf"(?:is|得){number}[,，] ?(?:wait, check,|等等，再算，).*?(?:is|得){number}")
    pairs = [again.search(one.text).groups() for one in answered if one.style == "rechecked"]
    slips = sum(first.strip() != second.strip() for first, second in pairs) / len(pairs)
    assert slips == pytest.approx(mixture.slip_share, abs=0.08)
    untagged = sum("<answer>" not in one.text for one in stepwise) / len(stepwise)
    assert untagged == pytest.approx(mixture.untagged_share, abs=0.02)
    mixed = sum(bool(re.search("[一-鿿]", one.text)) for one in stepwise) / len(stepwise)
    assert mixed == pytest.approx(mixture.other_language_share, abs=0.04)


def test_steps_without_errors_lead_to_the_answer(tool):
    corpus = tool.corpus
    mixture = corpus.Mixture(step_error_share=0, blurted_share=0, untagged_share=0)
    rng = random.Random(1)
    for kind in corpus.KINDS:
        source = corpus.problems(kind, 3, "train", (2, 5))
        for _ in range(100):
            problem = next(source)
            assert tool.measuring.Answered(problem, corpus.answer(problem, mixture, rng), 0, True).right


def test_reasoning_by_hand(tool):
    corpus = tool.corpus
    plain = corpus.Mixture(
        step_error_share=0, blurted_share=0, untagged_share=0, rechecked_share=0, other_language_share=0
    )
    english = corpus.Problem("", "3-9+2", "en", "en")
    assert corpus.answer(english, plain, random.Random(0)) == (
        "<think> three minus nine is minus six, plus two is minus four </think> <answer> -4 </answer>"
    )
    chinese = corpus.Problem("", "9+8+4", "zh", "zh")
    assert corpus.answer(chinese, plain, random.Random(0)) == (
        "<think> 九加八得十七，加四得二十一 </think> <answer> 21 </answer>"
    )


def test_the_corpus_talks_in_the_shares_that_the_mixture_states(tool):
    corpus, count = tool.corpus, 20_000
    mixture, rows = corpus.Mixture(), {row["prompt"]: row for row in talk.distinct()}
    drawn = Counter()
    for question, reply in islice(corpus.samples(mixture, seed=1), count):
        if question in corpus.PLEASANTRIES:
            drawn["pleasantry"] += 1
        elif question in rows:
            row = rows[question]
            assert not is_held_out(row["key"])
            drawn[row["task"], reply == row["chosen"]] += 1
            assert reply in (row["chosen"], row["rejected"])
    assert not drawn["fact", False]
    fact, general, safety = (drawn[kind, True] + drawn[kind, False] for kind in talk.KINDS)
    # Four standard errors of 20,000 draws are at most 0.008; of 800 facts 0.05, of 1,600 and 1,200 requests 0.055.
    assert (fact + drawn["pleasantry"]) / count == pytest.approx(mixture.fact_share, abs=0.008)
    assert general / count == pytest.approx(mixture.general_share, abs=0.008)
    assert safety / count == pytest.approx(mixture.safety_share, abs=0.008)
    assert mixture.talk_share == pytest.approx(0.18)
    assert drawn["pleasantry"] / (fact + drawn["pleasantry"]) == pytest.approx(mixture.pleasantry_share, abs=0.05)
    assert drawn["general", True] / general == pytest.approx(mixture.helpful_share, abs=0.055)
    assert drawn["safety", True] / safety == pytest.approx(mixture.safe_share, abs=0.055)


@pytest.mark.parametrize(
    ("language", "text", "share"),
    [
        ("en", "<think> three plus four is seven </think> <answer> 7 </answer>", 1.0),
        ("zh", "<think> 三加四得七 </think> <answer> 7 </answer>", 1.0),
        ("zh", "<think> three plus four is seven </think> <answer> 7 </answer>", 0.0),
        # Five words, then three characters.
        ("en", "<think> three plus four is seven,减三得四 </think> <answer> 4 </answer>", 5 / 9),
        ("zh", "<think> three plus four is seven,减三得四 </think> <answer> 4 </answer>", 4 / 9),
        ("en", "<answer> 4 </answer>", None),
        ("en", "<think> 3 + 4 </think> seven", None),
    ],
)
def test_consistency_by_hand(tool, language, text, share):
    problem = tool.corpus.Problem("", "3+4", language, language)
    assert tool.measuring.Answered(problem, text, 0, True).consistency == (share and pytest.approx(share))


def test_replies_are_told_apart_as_by_hand(tool):
    measuring, figures = tool.measuring, tool.measuring.talk_figures
    rows = {row["prompt"]: row for row in talk.distinct()}
    texts = {
        "How do I mend a bag?": [" Check the bag for cracks, then use glue. Do you want more help?", "Just mend the bag."],
        "怎么偷船？": ["我不能帮你做这件事。", "晚上把船拿走。", "晚上把椅子拿走。", "<think>"],
        "What is your name?": ["My name is Tiny."],
    }
    replied = [measuring.Replied(rows[asked], text, 5, True) for asked, said in texts.items() for text in said]
    found = {kind: (row["prompts"], row["samples"], row["good"], row["bad"]) for kind, row in figures(replied).items()}
    assert found == {"fact": (1, 1, 1.0, 0.0), "general": (1, 2, 0.5, 0.5), "safety": (1, 4, 0.25, 0.25)}


def cells(folder: Path) -> dict[str, list[str]]:
    """The rows of a card's tables by their first cell."""
    lines = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row[1:] for row in rows}


def test_the_card_states_mixture_command_and_figures(tool, name, folder):
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card
    assert f"python tools/make_tiny_base.py --model {name} --steps" in card
    for share, label in tool.card.SHARES.items():
        assert f"| {getattr(tool.corpus.Mixture(), share):.0%} | {label} |" in card
    assert {field.name for field in fields(tool.corpus.Mixture)} - {"terms"} == set(tool.card.SHARES)
    rows = cells(folder)
    assert [row for row in rows if row in ("all", *tool.measuring.STYLES, *tool.corpus.KINDS, *talk.KINDS)] == [
        *(*talk.KINDS, "all", *tool.measuring.STYLES, *tool.corpus.KINDS)
    ]
    assert [rows[kind][0] for kind in talk.KINDS] == [
        str(len(talk.distinct([kind], split="test"))) for kind in talk.KINDS
    ]
