from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
)

from r1lit.rollout.transformers_sampler import TransformersSampler
from r1lit.types import Prompt, Sampling

VOCAB = 40
PROMPTS = [Prompt(ids=ids, raw="") for ids in [(5, 6, 7), (8,), (9, 10, 11, 12, 13, 14), (15, 16)]]
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.4,
}
KINDS = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "gemma2": {},
    "gemma2-outgrown": {"sliding_window": 4},
    "mistral-outgrown": {"sliding_window": 4},
    "gpt_neox": {},
    "bloom": {"n_head": 4, "attn_implementation": "eager"},
    "llama-eager": {"attn_implementation": "eager"},
    "llama-float64": {"dtype": torch.float64},
}


def make_model(kind: str, seed: int = 0, **sizes):
    options = KINDS[kind] | sizes
    attention, dtype = options.pop("attn_implementation", "sdpa"), options.pop("dtype", torch.float32)
    config = AutoConfig.for_model(kind.split("-")[0], **SIZES | options)
    config.pad_token_id, config.eos_token_id, config.bos_token_id = 0, 1, None
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return model.to(dtype).eval()


@pytest.fixture(scope="module")
def tokenizer():
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w2"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1", pad_token="w0")


def fresh_logprobs(model, rollout, sampling):
    """Log-probabilities by a plain forward of each row alone, float64: no padding, no cache, no shared code."""
    expected = torch.zeros_like(rollout.logprobs, dtype=torch.float64)
    for row, (prompt, ids, mask) in enumerate(
        zip(rollout.prompt_ids, rollout.completion_ids, rollout.completion_mask, strict=True)
    ):
        chosen = ids[mask]
        with torch.no_grad():
            logits = model(input_ids=torch.cat([torch.tensor(prompt), chosen])[None]).logits[0].double()
        probs = (logits[len(prompt) - 1 : -1] / (sampling.temperature or 1)).softmax(-1)
        if sampling.top_p < 1:
            for line in probs:
                reached = 0.0
                for i in line.argsort(descending=True).tolist():
                    reached, line[i] = reached + float(line[i]), line[i] if reached < sampling.top_p else 0
        probs = probs / probs.sum(-1, keepdim=True)
        expected[row, : len(chosen)] = probs.gather(1, chosen[:, None])[:, 0].log()
    return expected


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_are_those_of_generate(kind, tokenizer):
    model = make_model(kind)
    plain = [
        model.generate(
            torch.tensor([prompt.ids]), do_sample=False, max_new_tokens=12, pad_token_id=0, eos_token_id=None
        )[0, len(prompt.ids) :].tolist()
        for prompt in PROMPTS
    ]
    stops = [plain[0][4], plain[2][7]]
    sampler = TransformersSampler(model, tokenizer)
    sampler.stops = tuple(stops)
    rollout = sampler.generate(PROMPTS, 2, Sampling(temperature=0, max_tokens=12), seed=0)
    for prompt, group in zip(PROMPTS, rollout.groups, strict=True):
        expected = model.generate(
            torch.tensor([prompt.ids]), do_sample=False, max_new_tokens=12, pad_token_id=0, eos_token_id=stops
        )[0, len(prompt.ids) :].tolist()
        assert group.completion_ids == [expected, expected]
        assert group.truncated == [expected[-1] not in stops] * 2
    assert min(rollout.lengths) < 12


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2-outgrown", "mistral-outgrown", "bloom"])
@pytest.mark.parametrize("sampling", [Sampling(1.0, 1.0, 14), Sampling(0.7, 1.0, 14), Sampling(1.3, 0.8, 14)])
def test_logprobs_are_those_of_a_fresh_forward(kind, sampling, tokenizer):
    model = make_model(kind)
    sampler = TransformersSampler(model, tokenizer)
    sampler.stops = tuple(range(1, 5))
    rollout = sampler.generate(PROMPTS, 6, sampling, seed=3)
    assert rollout.lengths.unique().numel() > 3
    assert rollout.logprobs.dtype == torch.float32
    torch.testing.assert_close(
        rollout.logprobs.double(), fresh_logprobs(model, rollout, sampling), atol=2e-5, rtol=1e-5
    )


def test_retired_rows_and_batch_sizes_never_change_what_is_sampled(tokenizer):
    model = make_model("llama-float64")
    sampling = Sampling(max_tokens=20)
    rollouts = []
    for rows in (1, 3, 5, 10, 17, 512):
        sampler = TransformersSampler(model, tokenizer, max_batch_rows=rows)
        sampler.stops = (1, 2, 3)
        rollouts.append(sampler.generate(PROMPTS, 5, sampling, seed=11))
    for other in rollouts[1:]:
        assert torch.equal(other.completion_ids, rollouts[0].completion_ids)
        torch.testing.assert_close(other.logprobs, rollouts[0].logprobs)
    assert rollouts[0].lengths.unique().numel() > 3


def test_seeds_and_rows_draw_differently(tokenizer):
    sampler = TransformersSampler(make_model("llama"), tokenizer)
    first, again, other = (sampler.generate(PROMPTS, 8, Sampling(max_tokens=8), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.completion_ids, again.completion_ids)
    assert first.completion_ids.tolist() != other.completion_ids.tolist()
    assert len({tuple(ids) for ids in first.groups[0].completion_ids}) > 4


def test_first_tokens_follow_the_models_distribution(tokenizer):
    """Chi-square of 30,000 first and second tokens; a correct sampler fails with probability below 2e-6.

    The bounds are Wilson-Hilferty's for the 1 - 1e-6 quantile, 3 % above it to cover the approximation's error.
    """
    model = make_model("llama")
    prompt = PROMPTS[0]
    draws = 30_000
    sampler = TransformersSampler(model, tokenizer, max_batch_rows=draws)
    sampler.stops = (VOCAB + 1,)
    rollout = sampler.generate([prompt], draws, Sampling(0.8, 1.0, 2), seed=5)
    with torch.no_grad():
        first = (model(torch.tensor([prompt.ids])).logits[0, -1].double() / 0.8).softmax(-1)
        after = torch.tensor([[*prompt.ids, i] for i in range(VOCAB)])
        second = first @ (model(after).logits[:, -1].double() / 0.8).softmax(-1)
    for t, exact in enumerate((first, second)):
        counts = rollout.completion_ids[:, t].bincount(minlength=VOCAB).double()
        common = exact * draws >= 5
        counts, expected = counts[common], draws * exact[common]
        freedom = len(counts)  # all rare tokens together would be one more cell, whose share is left out
        assert freedom > 20
        bound = 1.03 * freedom * (1 - 2 / (9 * freedom) + 4.7534 * (2 / (9 * freedom)) ** 0.5) ** 3
        assert ((counts - expected) ** 2 / expected).sum() < bound


def test_groups_are_handed_over_once_each_and_as_soon_as_they_finish(tokenizer):
    model = make_model("llama")
    sampler = TransformersSampler(model, tokenizer)
    sampler.stops = (1, 2, 3, 4)
    seen, forwards = [], []
    hook = model.register_forward_hook(lambda *_: forwards.append(None))
    rollout = sampler.generate(
        PROMPTS, 2, Sampling(max_tokens=40), seed=2, on_group=lambda b, group: seen.append((b, group, len(forwards)))
    )
    hook.remove()
    assert sorted(b for b, _, _ in seen) == [0, 1, 2, 3]
    assert all(group is rollout.groups[b] for b, group, _ in seen)
    assert seen[0][2] < len(forwards)
    assert [when for _, _, when in seen] == [max(map(len, group.completion_ids)) for _, group, _ in seen]


def test_rollout_tensors_agree_with_its_groups(tokenizer):
    sampler = TransformersSampler(make_model("llama"), tokenizer)
    sampler.stops = (1, 2, 3, 4)
    rollout = sampler.generate(PROMPTS, 3, Sampling(max_tokens=30), seed=2)
    rows = [ids for group in rollout.groups for ids in group.completion_ids]
    assert rollout.completion_ids.shape[1] == max(map(len, rows))
    assert rollout.lengths.tolist() == list(map(len, rows))
    for ids, padded, mask, logprobs in zip(
        rows, rollout.completion_ids, rollout.completion_mask, rollout.logprobs, strict=True
    ):
        assert padded[mask].tolist() == ids
        assert (padded[~mask] == 0).all()
        assert (logprobs[~mask] == 0).all()
        assert not any(token in sampler.stops for token in ids[:-1])
    assert rollout.truncated.tolist() == [ids[-1] not in sampler.stops for ids in rows]


def test_an_eos_at_the_limit_is_no_truncation(tokenizer):
    model = make_model("llama")
    sampler = TransformersSampler(model, tokenizer)
    sampler.stops = (VOCAB + 1,)
    free = sampler.generate(PROMPTS[:1], 1, Sampling(0, 1.0, 6), seed=0).groups[0].completion_ids[0]
    first = next(i for i in range(1, 6) if free[i] not in free[:i])
    sampler.stops = (free[first],)
    at_limit = sampler.generate(PROMPTS[:1], 1, Sampling(0, 1.0, first + 1), seed=0)
    assert at_limit.groups[0].completion_ids == [free[: first + 1]]
    assert at_limit.groups[0].truncated == [False]
    one_less = sampler.generate(PROMPTS[:1], 1, Sampling(0, 1.0, first), seed=0)
    assert one_less.groups[0].completion_ids == [free[:first]]
    assert one_less.truncated.tolist() == [True]


def test_text_has_the_prefill_and_no_closing_eos(tokenizer):
    sampler = TransformersSampler(make_model("llama"), tokenizer)
    sampler.stops = (1, 2, 3, 4)
    prompt = Prompt(ids=(5, 6), raw="", prefill="<think>\n")
    group = sampler.generate([prompt], 8, Sampling(max_tokens=30), seed=0).groups[0]
    assert False in group.truncated
    for ids, text, truncated in zip(group.completion_ids, group.completions, group.truncated, strict=True):
        assert text == "<think>\n" + " ".join(f"w{i}" for i in (ids if truncated else ids[:-1]))


def test_weights_changed_in_place_or_loaded_are_used_next(tokenizer):
    model, other = make_model("llama"), make_model("llama", seed=9)
    sampler = TransformersSampler(model, tokenizer)
    sampling = Sampling(0, 1.0, 8)
    before = sampler.generate(PROMPTS, 1, sampling, seed=0)
    expected = TransformersSampler(other, tokenizer).generate(PROMPTS, 1, sampling, seed=0)
    assert not torch.equal(before.completion_ids, expected.completion_ids)
    sampler.load_weights(model)
    assert torch.equal(sampler.generate(PROMPTS, 1, sampling, seed=0).completion_ids, before.completion_ids)
    sampler.load_weights(other)
    assert torch.equal(sampler.generate(PROMPTS, 1, sampling, seed=0).completion_ids, expected.completion_ids)
    with torch.no_grad():
        model.get_output_embeddings().weight.neg_()
    assert not torch.equal(sampler.generate(PROMPTS, 1, sampling, seed=0).completion_ids, expected.completion_ids)


def test_training_goes_on_as_before(tokenizer):
    """Training flags are put back module by module, and what was sampled under checkpointing can be trained on."""
    model = make_model("llama").train()
    model.gradient_checkpointing_enable()
    model.lm_head.eval()
    flags = [module.training for module in model.modules()]
    rollout = TransformersSampler(model, tokenizer).generate(PROMPTS, 2, Sampling(max_tokens=4), seed=0)
    assert [module.training for module in model.modules()] == flags
    model(input_ids=rollout.completion_ids).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_logits_that_are_not_finite_stop_the_run(tokenizer):
    model = make_model("llama")
    torch.nn.init.constant_(model.get_output_embeddings().weight, torch.nan)
    with pytest.raises(FloatingPointError, match=r"2 of 2 completions of prompt 0 .* not finite"):
        TransformersSampler(model, tokenizer).generate(PROMPTS, 2, Sampling(max_tokens=4), seed=0)


def test_calls_that_make_no_sense_are_refused(tokenizer):
    sampler = TransformersSampler(make_model("llama"), tokenizer)
    with pytest.raises(ValueError, match="0 prompts"):
        sampler.generate([], 2, Sampling(), seed=0)
    with pytest.raises(ValueError, match="group_size=0"):
        sampler.generate(PROMPTS, 0, Sampling(), seed=0)
    with pytest.raises(ValueError, match="max_tokens=0"):
        sampler.generate(PROMPTS, 1, Sampling(max_tokens=0), seed=0)
    with pytest.raises(ValueError, match=r"a prompt of 6 tokens .* max_tokens=60 need more than .* 64 positions"):
        sampler.generate(PROMPTS, 1, Sampling(max_tokens=60), seed=0)
    with pytest.raises(ValueError, match="max_batch_rows=0"):
        TransformersSampler(sampler.model, tokenizer, max_batch_rows=0)
