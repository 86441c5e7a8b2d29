"""Models in shards, of one process: adapters, packed bases and 8-bit moments do what they do whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from adapted import load, logprobs, shift
from small_models import SIZES
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from r1lit.distributed.launch import alone
from r1lit.distributed.plan import Sharding, prove_head, whole_weights
from r1lit.models.adapters import save_weights
from r1lit.models.lora import LoraSettings, attach, merged_weights, parameter_counts, trained_parameters
from r1lit.models.reference import make_reference, reference_model, refresh
from r1lit.modules.optimizer import build_optimizer
from r1lit.modules.settings import OptimizerSettings


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    alone()
    yield
    distributed.destroy_process_group()


def drawn(kind: str, **options) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES, **options, eos_token_id=1, bos_token_id=None)
    model = AutoModelForCausalLM.from_config(config).eval()
    attach(model, LoraSettings(rank=2))
    return model


MODELS = {
    "float32 on bfloat16": lambda: load(dtype="bfloat16"),
    "4 bits": lambda: load(quantization="nf4"),
    # Experts are parameters of one module.
    "experts": lambda: drawn("mixtral", num_local_experts=4),
    "a tied head": lambda: drawn("qwen2", tie_word_embeddings=True),
}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def learnt(model: PreTrainedModel) -> list[torch.Tensor]:
    """Log-probs, and the gradients of all that is trained."""
    got = logprobs(model)
    got.sum().backward()
    return [got.detach(), *(whole(parameter.grad) for parameter in trained_parameters(model))]


@pytest.mark.parametrize("kind", MODELS)
def test_adapters_in_shards_are_those_of_a_whole_model(tmp_path, kind):
    plain, sharded = (MODELS[kind]() for _ in range(2))
    for model in (plain, sharded):
        shift(model)
    Sharding.of("cpu", 1).apply(sharded)
    prove_head(sharded)
    assert all(isinstance(parameter, DTensor) for parameter in sharded.parameters())
    assert parameter_counts(sharded) == parameter_counts(plain)
    torch.testing.assert_close(learnt(sharded), learnt(plain), rtol=1e-5, atol=1e-5)
    written = whole_weights(sharded)
    torch.testing.assert_close(written, dict(merged_weights(plain, tied=False)), rtol=1e-5, atol=1e-5)
    save_weights(sharded, tmp_path, merge=True, weights=written)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    torch.testing.assert_close(saved, dict(merged_weights(plain)), rtol=1e-5, atol=1e-5)
    alone = whole_weights(sharded, merge=False)
    assert alone.keys() == {name for name, parameter in plain.named_parameters() if parameter.requires_grad}


def test_the_reference_of_shards_is_the_base_and_then_a_copy():
    plain, sharded = load(), load()
    Sharding.of("cpu", 1).apply(sharded)
    prove_head(sharded)
    references = [make_reference(model) for model in (plain, sharded)]
    base = logprobs(plain).detach()
    for model in (plain, sharded):
        with torch.no_grad():
            for parameter in trained_parameters(model):
                parameter.add_(0.05)
    with torch.no_grad(), reference_model(references[1], sharded) as held:
        assert torch.equal(logprobs(held), base)
    refreshed = logprobs(plain).detach()
    for model, reference in zip((plain, sharded), references, strict=True):
        refresh(reference, model)
        with torch.no_grad():
            for parameter in trained_parameters(model):
                parameter.mul_(2)
        with torch.no_grad(), reference_model(reference, model) as held:
            assert torch.equal(logprobs(held), refreshed)
    assert torch.equal(logprobs(sharded), logprobs(plain)) and not torch.equal(logprobs(plain), refreshed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_8_bit_moments_of_shards_move_the_weights_as_they_do_whole(dtype):
    ends = []
    for sharded in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(64, 128).to(dtype)
        if sharded:
            fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        optimizer, schedule = build_optimizer(model, OptimizerSettings(kind="adamw_8bit", lr=1e-3), 3)
        for _ in range(3):
            model(torch.ones(2, 64, dtype=dtype)).float().square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        ends.append([whole(parameter.detach()) for parameter in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*ends, strict=True))
