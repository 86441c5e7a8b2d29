"""What a step costs: against figures by hand, and against torch's own count of every matrix product."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from r1lit.models.loading import ModelSettings, load_policy
from r1lit.models.logprobs import head_of, target_predictions
from r1lit.models.packing import Packed
from r1lit.modules.compute import Cost, attended_pairs, rollout_work, training_work
from r1lit.rollout.transformers_sampler import TransformersSampler
from r1lit.types import Prompt, Sampling

SIZES = {
    "vocab_size": 50,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
KINDS = {
    "llama": {},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "head_dim": None, "num_key_value_heads": None},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
}


def make_model(kind: str, **options):
    config = AutoConfig.for_model(kind, **SIZES | KINDS.get(kind, {}) | options)
    torch.manual_seed(0)
    # Otherwise products of experts are grouped, which torch does not count.
    experts = {"experts_implementation": "eager"} if kind == "mixtral" else {}
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager", **experts).eval()


def masked_half(cost: Cost, lengths) -> float:
    """FLOPs of a forward pass for pairs that the causal mask hides: eager attention computes them all the same."""
    ((width, _),) = cost.attention.values()
    return 2 * width * sum(n * n - n * (n + 1) / 2 for n in lengths)


@pytest.mark.parametrize("kind", KINDS)
def test_training_costs_what_torch_counts(kind):
    """torch counts the rotary angles too, and not the head weight's gradient, which is added up in place."""
    model, rows, length, prompt = make_model(kind), 3, 40, 10
    ids, mask = torch.randint(1, 50, (rows, length)), torch.zeros(rows, length - 1, dtype=torch.bool)
    mask[:, prompt - 1 :] = True
    head_of(model)
    with FlopCounterMode(display=False) as counter:
        target_predictions(model, Packed(ids, mask))[0].sum().backward()
    cost, lengths = Cost.of(model), [length] * rows
    targets = int(mask.sum())
    mine = training_work(model, lengths, targets)["update"].flops
    counted = counter.get_total_flops() + 2 * cost.head * targets
    assert mine + 3 * masked_half(cost, lengths) == pytest.approx(counted, rel=0.002)
    assert 3 * masked_half(cost, lengths) > 0.01 * mine, "attention is more than what the tolerance forgives"


def test_training_costs_no_gradient_of_a_frozen_matrix():
    model = make_model("llama")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("gate_proj" in name or "norm" in name)
    ids, mask = torch.randint(1, 50, (2, 30)), torch.ones(2, 29, dtype=torch.bool)
    head_of(model)
    # The gradient flows through every layer, as it does where the frozen model holds adapters everywhere.
    model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: output.requires_grad_())
    with FlopCounterMode(display=False) as counter:
        target_predictions(model, Packed(ids, mask))[0].sum().backward()
    cost = Cost.of(model)
    mine = cost.training(torch.tensor([30, 30]), targets=58)
    assert mine + 3 * masked_half(cost, [30, 30]) == pytest.approx(counter.get_total_flops(), rel=0.005)


def test_sampling_costs_what_torch_counts():
    policy, tokenizer = load_policy(ModelSettings(attention="eager"))
    sampler = TransformersSampler(policy, tokenizer)
    prompt = Prompt(ids=tuple(range(5, 35)), raw="q")
    with FlopCounterMode(display=False) as counter:
        rollout = sampler.generate([prompt], 1, Sampling(max_tokens=20), seed=0)
    cost = Cost.of(policy)
    drawn = rollout.lengths
    mine = rollout_work(cost, torch.tensor([30]), drawn, group_size=1, cache_bytes=4)
    assert mine.flops + masked_half(cost, [30]) == pytest.approx(counter.get_total_flops(), rel=0.005)
    assert mine.tokens == 30 + int(drawn) - 1 and mine.targets == int(drawn)


def test_figures_of_the_tiny_model_by_hand():
    policy, _ = load_policy(ModelSettings())
    cost = Cost.of(policy)
    # Two layers of four 128 x 128 matrices and three of 128 x 512; a tied head of 614 x 128; 4 heads of 32 + 32.
    body, head, width = 2 * (4 * 128 * 128 + 3 * 128 * 512), 614 * 128, 2 * 4 * (32 + 32)
    norms = 5 * 128
    assert (cost.body, cost.trained_body, cost.head, cost.trained_head) == (body, body, head, head)
    assert cost.attention == {None: (width, width)} and cost.weight_bytes == 4 * (body + head + norms)
    lengths = [3, 5]
    expected = 6 * body * 8 + 6 * head * 4 + 6 * width * (6 + 15)
    assert cost.training(torch.tensor(lengths), targets=4) == expected
    # A group of two after a prompt of 3 tokens; the second token of either is fed back, the third is only drawn.
    work = rollout_work(cost, torch.tensor([3, 3]), torch.tensor([3, 2]), group_size=2, cache_bytes=2)
    fed, pairs = 3, (4 + 5) + 4
    assert work.tokens == 3 + fed and work.targets == 5 - 1, "one drawn token a group comes from the prompt's own pass"
    assert work.flops == 2 * body * (3 + fed) + 2 * head * 4 + 2 * width * (6 + pairs)
    assert work.cache_bytes == 2 * width * pairs and work.weight_bytes == cost.weight_bytes


@pytest.mark.parametrize("window", [None, 1, 3, 10])
def test_pairs_are_those_of_the_mask(window):
    for length in range(1, 12):
        rows, columns = torch.arange(length)[:, None], torch.arange(length)
        seen = (columns <= rows) & (rows - columns < (window or length))
        for start in range(length):
            assert attended_pairs(torch.tensor([length]), window, torch.tensor([start])) == int(seen[start:].sum())


def test_windows_and_grouped_heads_are_read_off_the_config():
    layered = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
    cost = Cost.of(make_model("gemma3_text", **layered))
    assert cost.attention == {4: (4 * 48, 2 * 48), None: (4 * 48, 2 * 48)}
    assert Cost.of(make_model("mistral", sliding_window=4)).attention == {4: (2 * 4 * 48, 2 * 2 * 48)}


def test_a_reward_model_has_no_head_over_a_vocabulary():
    from transformers import AutoModelForSequenceClassification

    config = AutoConfig.for_model("llama", **SIZES, num_labels=1)
    cost = Cost.of(AutoModelForSequenceClassification.from_config(config))
    assert cost.head == 0 and cost.body == Cost.of(make_model("llama")).body + 64
