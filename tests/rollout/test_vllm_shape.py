"""Whether a server's model is the trainer's, from two configs that may say the same in different words."""

from __future__ import annotations

import copy
import json

import pytest
from transformers import Gemma3TextConfig, LlamaConfig, Qwen2Config

from r1lit.models.rope import RopeScaling, stretch_positions
from r1lit.rollout.vllm_shape import shape_of, shape_problem
from r1lit.rollout.vllm_shares import PROVEN, spread_problem

URL = "http://host:8000"
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}


def problem(served, mine) -> str | None:
    return shape_problem(URL, shape_of(served), shape_of(mine))


@pytest.mark.parametrize(
    ("served", "mine"),
    [
        (LlamaConfig(), LlamaConfig(rope_theta=10000.0)),
        (LlamaConfig(), LlamaConfig(rope_parameters={"rope_type": "default", "rope_theta": 10000})),
        (LlamaConfig(num_key_value_heads=None), LlamaConfig(num_key_value_heads=32)),
        (Qwen2Config(sliding_window=4096, use_sliding_window=False), Qwen2Config(sliding_window=None)),
        (
            LlamaConfig(rope_scaling={"type": "yarn", **{k: v for k, v in YARN.items() if k != "rope_type"}}),
            LlamaConfig(rope_parameters={**YARN, "beta_fast": 32.0, "beta_slow": 1, "attention_factor": None}),
        ),
        (Gemma3TextConfig(), Gemma3TextConfig(rope_theta=1e6, rope_local_base_freq=1e4)),
    ],
    ids=["theta told", "type told", "heads told", "no window", "yarn in old words", "by kind of layer"],
)
def test_the_same_in_other_words_is_accepted(served, mine):
    assert problem(served, mine) is problem(mine, served) is None
    # As it comes over the network.
    assert shape_problem(URL, json.loads(json.dumps(shape_of(served))), shape_of(mine)) is None


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"intermediate_size": 96}, "intermediate_size=96 (here 11008)"),
        ({"num_key_value_heads": 8}, "num_key_value_heads=8 (here 32)"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings=True (here False)"),
        ({"vocab_size": 64, "head_dim": 64}, "vocab_size=64 (here 32000), head_dim=64 (here 128)"),
    ],
)
def test_another_model_is_refused(changed, told):
    found = problem(LlamaConfig(**changed), LlamaConfig())
    assert f"{URL} serves another model: {told}; start it with this one" in found


def test_another_window_is_refused():
    served = Qwen2Config(use_sliding_window=True, sliding_window=1024, max_window_layers=0)
    assert "sliding_window=1024 (here None)" in problem(served, Qwen2Config())


def test_other_rotary_positions_are_refused_with_what_to_start():
    mine = LlamaConfig()
    stretch_positions(mine, RopeScaling(type="yarn", factor=4), "model")
    found = problem(LlamaConfig(), mine)
    assert 'rope={"rope_theta": 10000.0, "rope_type": "default"} (here {"factor": 4.0, ' in found
    assert '"max_position_embeddings": 8192}' in found
    assert "start it on a folder whose config.json has them, or as python -m r1lit.rollout.vllm_serve MODEL" in found
    assert problem(copy.deepcopy(mine), mine) is None
    other = copy.deepcopy(mine)
    other.rope_parameters["beta_fast"] = 16
    assert '"beta_fast": 16' in problem(other, mine)


def test_tensor_parallelism_alone_is_accepted():
    plain = {"workers": 4, "executor": "mp", "experts": False, **PROVEN}
    assert spread_problem(plain, 4) is None
    assert spread_problem(plain | {"pipeline_parallel_size": 2}, 8) == "pipeline_parallel_size=2"
    assert spread_problem(plain | {"executor": "ray"}, 4) == "distributed_executor_backend=ray"
    assert spread_problem(plain | {"experts": True}, 4) == "tensor_parallel_size=4 for a mixture of experts"
    assert spread_problem(plain | {"experts": True, "workers": 1}, 1) is None
    # Engines beside each other do not know of one another.
    assert spread_problem(plain, 8) == "data_parallel_size=2"
