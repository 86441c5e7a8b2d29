from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from r1lit.models.logprobs import completion_logprobs, head_of
from r1lit.models.packing import Packed

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
KINDS = {
    "llama": {},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {},
    "gemma2": {"final_logit_softcapping": 2.0},
    "mistral": {"sliding_window": 4},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 4.0},
    "gptj": {"n_embd": 16, "n_layer": 2, "n_head": 4, "rotary_dim": 2},
}


def make_model(kind: str):
    config = AutoConfig.for_model(kind, **SIZES | KINDS[kind])
    config.pad_token_id, config.eos_token_id, config.bos_token_id = 0, 1, None
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def make_rows():
    """Three rows of 4, 2 and 5 prompt tokens and 3, 6 and 1 completion tokens, padded to L=8 and T=6."""
    prompts, completions = [4, 2, 5], [3, 6, 1]
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.zeros(3, 8, dtype=torch.long)
    target_mask, completion_mask = torch.zeros(3, 7, dtype=torch.bool), torch.zeros(3, 6, dtype=torch.bool)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        input_ids[row, : prompt + completion] = torch.randint(2, 50, (prompt + completion,), generator=generator)
        target_mask[row, prompt - 1 : prompt + completion - 1] = True
        completion_mask[row, :completion] = True
    return input_ids, target_mask, completion_mask, prompts, completions


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_are_those_of_the_models_own_logits(kind, temperature):
    model = make_model(kind)
    input_ids, target_mask, completion_mask, prompts, completions = make_rows()
    logprobs, entropy = completion_logprobs(model, Packed(input_ids, target_mask), completion_mask, temperature)
    expected, expected_entropy = torch.zeros(3, 6), torch.zeros(3, 6)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        ids = input_ids[row, : prompt + completion]
        lines = (model(input_ids=ids[None]).logits[0, prompt - 1 : -1] / temperature).log_softmax(-1)
        expected[row, :completion] = lines.gather(1, ids[prompt:, None])[:, 0]
        expected_entropy[row, :completion] = -(lines.exp() * lines).sum(-1)
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy, expected_entropy.detach(), atol=1e-5, rtol=1e-5)

    weights = torch.randn(3, 6, generator=torch.Generator().manual_seed(2))
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad((weights * logprobs).sum(), parameters)
    for name, got, want in zip(
        names, gradients, torch.autograd.grad((weights * expected).sum(), parameters), strict=True
    ):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_padding_is_zero_and_changes_nothing():
    model = make_model("llama")
    input_ids, target_mask, completion_mask, _, _ = make_rows()
    first, entropy = completion_logprobs(model, Packed(input_ids, target_mask), completion_mask, 1.0)
    other = input_ids.masked_fill(input_ids == 0, 7)
    second, _ = completion_logprobs(model, Packed(other, target_mask), completion_mask, 1.0)
    torch.testing.assert_close(first, second)
    assert (first[~completion_mask] == 0).all()
    assert (entropy[~completion_mask] == 0).all()


def test_a_head_of_an_unknown_kind_is_refused():
    model = make_model("llama")

    class Doubled(type(model)):
        def forward(self, *args, **kwargs):
            outputs = super().forward(*args, **kwargs)
            outputs.logits = outputs.logits * 2
            return outputs

    model.__class__ = Doubled
    with pytest.raises(ValueError, match="Doubled's logits differ from Head"):
        head_of(model)
