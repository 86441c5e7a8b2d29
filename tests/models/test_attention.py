"""Which attention a model gets on which machine, and that torch's varlen kernel is asked for the right thing.

The kernel itself runs on CUDA alone: here a plain computation of the same signature stands in for it.
"""

from __future__ import annotations

import pytest
import torch
from small_models import make_model, reference_varlen
from transformers import GenerationConfig

from r1lit.models import attention
from r1lit.models.attention import TORCH_VARLEN, attention_at_load, attention_of, settle_attention

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def no_flash_attention(monkeypatch):
    monkeypatch.setattr(attention, "find_spec", lambda name: None)


def test_auto_takes_torchs_kernel_on_cuda_in_half_precision_alone():
    for device, dtype, chosen in (
        (CUDA, torch.bfloat16, TORCH_VARLEN),
        (CUDA, torch.float16, TORCH_VARLEN),
        (CUDA, torch.float32, "sdpa"),
        (CPU, torch.bfloat16, "sdpa"),
        (CPU, torch.float32, "sdpa"),
    ):
        model = make_model("qwen2").to(dtype)
        settle_attention(model, "auto", device)
        assert attention_of(model) == chosen


def test_auto_prefers_flash_attention_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(attention, "find_spec", lambda name: name)
    model, asked = make_model("qwen2").to(torch.bfloat16), []
    monkeypatch.setattr(model, "set_attn_implementation", asked.append)
    settle_attention(model, "auto", CUDA)
    assert asked == ["flash_attention_2"]


def test_capped_scores_are_computed_by_an_attention_that_caps_them():
    capped, plain = make_model("gemma2", "eager"), make_model("gemma3_text")
    assert attention_at_load("auto", capped.config) == "eager"
    with pytest.raises(ValueError, match=r"attention=sdpa, but gemma2 caps its attention scores at 0\.5.*=auto"):
        attention_at_load("sdpa", capped.config)
    assert attention_at_load("auto", plain.config) is None and attention_at_load("sdpa", plain.config) == "sdpa"
    capped.to(torch.bfloat16)
    settle_attention(capped, "auto", CUDA)
    assert attention_of(capped) == "eager"


@pytest.mark.parametrize(
    ("kind", "asked", "device", "dtype", "problem"),
    [
        ("qwen2", "varlen", CPU, torch.bfloat16, "runs on CUDA alone, and this run is on CPU"),
        ("qwen2", "varlen", CUDA, torch.float32, "takes bfloat16 or float16, and this run computes in float32"),
        ("gemma2", "varlen", CUDA, torch.bfloat16, "Gemma2ForCausalLM caps its attention scores"),
        ("bloom", "varlen", CUDA, torch.bfloat16, "BloomForCausalLM has no attention that could be exchanged"),
        ("qwen2", "flash_attention_2", CUDA, torch.bfloat16, "flash-attn package is not installed"),
    ],
)
def test_what_cannot_run_is_refused(kind, asked, device, dtype, problem):
    model = make_model(kind, "eager").to(dtype)
    with pytest.raises(ValueError, match=rf"model\.attention={asked}, but .*{problem}.*model\.attention=auto"):
        settle_attention(model, asked, device)
    for kept in ("sdpa", "eager"):
        settle_attention(model, kept, device)
    assert attention_of(model) == "eager"


@pytest.mark.parametrize("kind", ["qwen2", "gemma3_text"])
def test_sampling_under_torchs_kernel_is_sampling_under_sdpa(kind, monkeypatch):
    """Prompts of several lengths, padded on the left, then a token at a time against the cache, beyond the window."""
    calls = []

    def counted(*args, **options):
        calls.append(len(args[0]))
        return reference_varlen(*args, **options)

    monkeypatch.setattr(attention, "varlen_attn", counted)
    ids = torch.randint(2, 50, (3, 7), generator=torch.Generator().manual_seed(0))
    padded = torch.ones_like(ids)
    padded[0, :4] = padded[2, :1] = 0
    greedy = GenerationConfig(max_new_tokens=9, do_sample=False, eos_token_id=None, pad_token_id=0)
    for mask in (padded, torch.ones_like(ids)):
        # The kernel takes halves alone, so a run samples under autocast.
        with torch.autocast("cpu", torch.bfloat16):
            expected, found = (
                make_model(kind, name).generate(ids, attention_mask=mask, generation_config=greedy)
                for name in ("sdpa", TORCH_VARLEN)
            )
        assert torch.equal(found, expected)
    # The kernel made the prompts that have no padding, each row a sequence; sdpa all that has a mask or a cache.
    assert calls == [ids.numel()] * 2


def test_what_the_kernel_has_not_is_never_left_out():
    states = torch.randn(1, 4, 6, 8)
    module = torch.nn.Module()
    with pytest.raises(ValueError, match=r"asks for \['softcap'\], which varlen has not"):
        attention._varlen_forward(module, states, states, states, None, softcap=50.0)
    with pytest.raises(ValueError, match="no causality"):
        attention._varlen_forward(module, states, states, states, None, is_causal=False)
