"""Checkpointed and compiled layers: the same numbers, fewer bytes, and nothing of it while the policy samples."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from r1lit.models import memory
from r1lit.models.loading import clone_frozen
from r1lit.models.logprobs import completion_logprobs, target_predictions
from r1lit.models.memory import compiler_problem, decoder_layers, prepare_layers
from r1lit.models.packing import Packed

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
}


def llama(layers: int = 3) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_hidden_layers=layers)).train()


def gemma() -> Gemma2ForCausalLM:
    """Sliding windows, eager attention, and masks of two kinds."""
    torch.manual_seed(0)
    config = Gemma2Config(**SIZES, num_hidden_layers=2, sliding_window=4, attn_implementation="eager")
    return Gemma2ForCausalLM(config).train()


def packed(lengths: tuple[int, ...] = (7, 5)) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    return torch.randint(1, 50, positions.shape), positions


def gradients(model: nn.Module, ids: torch.Tensor, positions: torch.Tensor | None) -> list[torch.Tensor]:
    model.zero_grad()
    logprobs, *_ = target_predictions(model, Packed(ids, torch.ones_like(ids[:, 1:], dtype=torch.bool), positions))
    (logprobs.float() * 3).mean().backward()
    return [logprobs.detach(), *(parameter.grad.clone() for parameter in model.parameters())]


class Watch(TorchDispatchMode):
    """The operations that run, and the bytes of what they made that are still held."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.ran: Counter[str] = Counter()
        self.largest = 0
        self._made: dict[StorageWeakRef, int] = {}
        self._weights = {StorageWeakRef(p.untyped_storage()) for p in [*model.parameters(), *model.buffers()]}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.ran[func.name().partition(".")[0]] += 1
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self._made[StorageWeakRef(storage)] = storage.nbytes()
                self.largest = max(self.largest, tensor.numel())
        return out

    @property
    def held(self) -> int:
        return sum(size for ref, size in self._made.items() if not ref.expired() and ref not in self._weights)


@pytest.mark.parametrize("make", [llama, gemma])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", ["full", "selective"])
def test_gradients_are_bit_for_bit_those_without_it(make, autocast, kind):
    plain, prepared = make(), make()
    prepare_layers(prepared, kind, compiled=False)
    for ids, positions in [packed(), (packed((6, 6))[0].view(2, 6), None)]:
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            pairs = zip(gradients(plain, ids, positions), gradients(prepared, ids, positions), strict=True)
        assert all(torch.equal(mine, expected) for mine, expected in pairs)


def test_fewer_bytes_are_held_for_the_backward():
    """Full: of each layer its input, [L, H] in float32, whatever the layer is made of; selective between the two."""
    layers, length, held = 4, 64, {}
    ids = torch.randint(1, 50, (1, length))
    for kind in ("none", "selective", "full"):
        model = llama(layers)
        prepare_layers(model, kind, compiled=False)
        head = nn.Linear(16, 1)
        with Watch(model) as watch:
            output = head(model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
        held[kind] = watch.held
        del output
    inputs = layers * length * 16 * 4
    # What is not of the layers: embedding, last norm, rotations.
    assert inputs < held["full"] < inputs + 6 * length * 16 * 4
    assert 2 * held["full"] < held["selective"] < 0.7 * held["none"]


def test_selective_checkpointing_does_no_costly_operation_twice():
    """And full checkpointing does: all of a layer's seven products but the last, whose output nothing needs."""
    ids, ran = torch.randint(1, 50, (1, 12)), {}
    for kind in ("none", "selective", "full"):
        model = llama(layers=2)
        prepare_layers(model, kind, compiled=False)
        with Watch(model) as watch:
            model.base_model(input_ids=ids, use_cache=False).last_hidden_state.sum().backward()
        ran[kind] = watch.ran
    attention = "aten::_scaled_dot_product_flash_attention_for_cpu"
    assert [ran[kind][attention] for kind in ("none", "selective", "full")] == [2, 2, 4]
    assert ran["selective"]["aten::mm"] == ran["none"]["aten::mm"] == ran["full"]["aten::mm"] - 2 * 6
    assert ran["none"]["aten::silu"] == 2 and ran["selective"]["aten::silu"] == 4


def test_no_matrix_of_length_by_length_is_made_for_one_sequence():
    """Neither a mask nor scores: a long chain of thought costs memory by its length, not by its square."""
    length = 256
    ids = torch.randint(1, 50, (1, length))
    model = llama(layers=1)
    prepare_layers(model, "full", compiled=False)
    with Watch(model) as watch:
        gradients(model, ids, None)
    assert watch.largest == (length - 1) * 50 < length**2
    model.set_attn_implementation("eager")
    with Watch(model) as watch:
        gradients(model, ids, None)
    assert watch.largest >= length**2


def test_a_policy_that_samples_runs_its_layers_as_they_were(monkeypatch):
    model = llama()
    ids = packed()[0]
    expected = model.eval().generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=-1)
    prepare_layers(model, "full", compiled=True)
    monkeypatch.setattr(memory, "_training_pass", None)
    monkeypatch.setattr(memory, "_compiled_pass", None)
    assert torch.equal(model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=-1), expected)
    with pytest.raises(TypeError):
        model.train()(input_ids=ids)


def test_names_copies_and_files_are_what_they_were(tmp_path):
    plain, model = llama(), llama()
    prepare_layers(model, "full", compiled=False)
    assert [type(layer).__name__ for layer in decoder_layers(model)] == ["LlamaDecoderLayer"] * 3
    assert list(model.state_dict()) == list(plain.state_dict())
    assert type(decoder_layers(model)[0]) is type(decoder_layers(model)[2])
    reference = clone_frozen(model)
    ids = packed()[0]
    before = reference(input_ids=ids).logits
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    assert torch.equal(reference(input_ids=ids).logits, before)
    assert not torch.equal(model(input_ids=ids, use_cache=False).logits, before)
    model.save_pretrained(tmp_path)
    again = LlamaForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(again(input_ids=ids).logits, model.eval()(input_ids=ids).logits)


def test_a_model_without_known_layers_is_refused():
    model = llama(layers=0)
    prepare_layers(model, "none", compiled=False)
    with pytest.raises(ValueError, match=r"LlamaForCausalLM has no layers .* set model.activation_checkpointing=none"):
        prepare_layers(model, "full", compiled=False)


@pytest.fixture(params=["inductor", "aot_eager"])
def backend(request, monkeypatch) -> str:
    """The compiler itself, and its front end alone, whose graphs torch runs without a C++ compiler's minute."""
    if request.param == "inductor" and compiler_problem(torch.device("cpu")) is not None:
        pytest.skip("no C++ compiler")
    compiled = torch.compile(memory._training_pass, dynamic=True, fullgraph=True, backend=request.param)
    monkeypatch.setattr(memory, "_compiled_pass", lambda: compiled)
    return request.param


def test_one_compilation_serves_all_layers_and_lengths(backend):
    kind, layers = ("full", 1) if backend == "inductor" else ("selective", 3)
    plain, model, graphs = llama(layers), llama(layers), set()
    prepare_layers(model, kind, compiled=True)
    for lengths in [(7, 5), (9, 4), (3, 3, 11)]:
        ids, positions = packed(lengths)
        mine, expected = gradients(model, ids, positions), gradients(plain, ids, positions)
        for got, wanted in zip(mine, expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)
        model.eval().generate(ids, max_new_tokens=3, do_sample=False)
        model.train()
        graphs.add(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert len(graphs) == 1


def test_compiling_without_a_compiler_is_refused():
    from torch._inductor import config, cpp_builder

    cpp_builder.cpp_compiler_search.cache_clear()
    # pytest's own patch would leave the setting away for good.
    with config.patch("cpp.cxx", ("no-such-compiler",)):
        assert "no C++ compiler" in compiler_problem(torch.device("cpu"))
        asked = compiler_problem(torch.device("cpu"), "rollout.decode=compiled", "rollout.decode=eager")
    assert asked.startswith("rollout.decode=compiled, but") and asked.endswith("or set rollout.decode=eager")
    cpp_builder.cpp_compiler_search.cache_clear()


def test_log_probs_without_gradient_are_those_of_training():
    """Old and reference log-probabilities come from passes in which nothing is recomputed."""
    model = llama()
    ids = packed()[0]
    mask = torch.ones_like(ids[:, 1:], dtype=torch.bool)
    with_gradient = completion_logprobs(model, Packed(ids, mask), mask, 1.0)[0]
    prepare_layers(model, "full", compiled=False)
    with torch.no_grad():
        assert torch.equal(completion_logprobs(model, Packed(ids, mask), mask, 1.0)[0], with_gradient)


def test_a_cache_is_refused_where_a_layer_is_computed_twice():
    model = llama()
    prepare_layers(model, "full", compiled=False)
    model.train()
    with pytest.raises(ValueError, match="use_cache=False"):
        model(input_ids=torch.arange(6)[None], use_cache=True)
