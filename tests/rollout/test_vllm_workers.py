"""A real vLLM server whose model is spread over two workers, on a CPU; `test_vllm_environment` runs these too.

One server serves all tests. Its model has what tensor parallelism treats in ways of its own: fewer heads of keys and
values than workers, biases of both kinds, a vocabulary that must be padded, and a tied head. Its rotary positions are
stretched by the command line alone.
"""

from __future__ import annotations

import json
import os
import sys
from urllib.request import Request, urlopen

import pytest
import torch
from spoiling_worker import RECEIVER
from transformers import (
    AutoConfig,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)
from vllm_serving import start, stop

from r1lit.models.loading import ModelSettings, load_policy, load_tokenizer
from r1lit.models.rope import RopeScaling, stretch_positions
from r1lit.rollout.settings import ServerSettings
from r1lit.rollout.transformers_sampler import TransformersSampler
from r1lit.rollout.vllm_sampler import VLLMSampler
from r1lit.rollout.vllm_server import RemoteEngine, ServerError
from r1lit.rollout.vllm_shape import shape_of, shape_problem
from r1lit.rollout.vllm_weights import WeightPushError
from r1lit.settings import ConfigError
from r1lit.types import Prompt, Sampling

pytest.importorskip("vllm")
pytestmark = pytest.mark.timeout(1200)

PROMPTS = [Prompt(ids=tuple((7 * n + 3) % 600 for n in range(length)), raw="") for length in (300, 4, 55)]
STRETCHED = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 256, "rope_theta": 10000.0}

SMALL = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 5e5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """A made-up model, as a folder."""
    path = str(tmp_path_factory.mktemp("model"))
    config = LlamaConfig(
        vocab_size=621,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=256,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    update(model, 0)
    model.save_pretrained(path)
    load_tokenizer(ModelSettings(path="tiny")).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    process, url = start(
        "float32",
        tmp_path_factory.mktemp("server") / "log",
        folder,
        [
            *("--tensor-parallel-size", "2", "--worker-extension-cls", RECEIVER),
            *("--hf-overrides", json.dumps({"rope_parameters": STRETCHED, "max_position_embeddings": 512})),
        ],
        # Otherwise each worker wants a memory node of its own.
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        PYTHONPATH=os.pathsep.join(sys.path),
    )
    yield process, url
    stop(process)


@pytest.fixture(scope="module")
def policy(folder):
    return load_policy(ModelSettings(path=folder, rope_scaling=RopeScaling(type="yarn", factor=2.0)))


@pytest.fixture(scope="module")
def sampler(server, policy) -> VLLMSampler:
    return VLLMSampler(RemoteEngine(policy[0], ServerSettings(url=server[1], timeout=120)), *policy)


def update(model: torch.nn.Module, seed: int) -> None:
    """A step that changes what the model says, and every one of its parameters."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=noise))


def ask(url: str, method: str, *arguments: str) -> list:
    body = json.dumps({"method": method, "args": arguments}).encode()
    request = Request(f"{url}/collective_rpc", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=120) as response:
        return json.loads(response.read())["results"]


def spoil(server, **how) -> None:
    assert [answer["worker"] for answer in ask(server[1], "r1lit_spoil", json.dumps(how))] == [0, 1]


@pytest.mark.parametrize(
    ("config", "stretched"),
    [
        (LlamaConfig(**SMALL), "yarn"),
        (LlamaConfig(**SMALL, rope_parameters=LLAMA3 | {"original_max_position_embeddings": 1024}), None),
        (Qwen2Config(**SMALL), "linear"),
        (Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=32, max_window_layers=1), None),
        (Qwen3Config(**SMALL), None),
        (MistralConfig(**SMALL), None),
        (Phi3Config(**SMALL), None),
        (Gemma2Config(**SMALL), None),
        (Gemma3TextConfig(**SMALL), None),
    ],
    ids=lambda value: getattr(value, "model_type", value),
)
def test_vllm_reads_a_config_as_the_trainer_does(config, stretched, tmp_path):
    from vllm.transformers_utils.config import get_config

    if stretched:
        stretch_positions(config, RopeScaling(type=stretched, factor=4), "made up")
    config.save_pretrained(tmp_path)
    mine = shape_of(AutoConfig.from_pretrained(tmp_path))
    served = shape_of(get_config(str(tmp_path), trust_remote_code=False))
    assert shape_problem("URL", json.loads(json.dumps(served)), mine) is None
    assert stretched is None or mine["rope"]["rope_type"] == stretched


def test_other_rotary_positions_are_refused(folder, server):
    plain, _ = load_policy(ModelSettings(path=folder))
    with pytest.raises(ConfigError) as caught:
        RemoteEngine(plain, ServerSettings(url=server[1]))
    (problem,) = caught.value.problems
    assert '"rope_type": "yarn"' in problem
    assert '(here {"rope_theta": 10000.0, "rope_type": "default"})' in problem
    assert "--hf-overrides" in problem


def test_after_each_update_the_greedy_tokens_are_transformers_own(policy, sampler):
    model, tokenizer = policy
    assert "spread over 2 workers" in sampler.description
    plain, greedy = TransformersSampler(model, tokenizer), Sampling(temperature=0.0, max_tokens=24)
    seen = []
    for seed in range(3):
        sampler.load_weights(model)
        found, expected = (one.generate(PROMPTS, 2, greedy, seed=0) for one in (sampler, plain))
        assert [group.completion_ids for group in found.groups] == [group.completion_ids for group in expected.groups]
        torch.testing.assert_close(found.logprobs, expected.logprobs, atol=1e-4, rtol=0)
        seen.append([group.completion_ids for group in found.groups])
        update(model, seed)
    assert seen[0] != seen[1] != seen[2]
    sampler.load_weights(model)


@pytest.mark.parametrize(
    ("name", "row", "named"),
    [
        ("model.layers.1.mlp.up_proj.weight", 95, "model.layers.1.mlp.gate_up_proj.weight"),
        ("model.layers.0.self_attn.q_proj.bias", 127, "model.layers.0.self_attn.qkv_proj.bias"),
        ("model.layers.0.self_attn.k_proj.weight", 0, "model.layers.0.self_attn.qkv_proj.weight"),
        ("model.layers.0.mlp.down_proj.bias", 5, "model.layers.0.mlp.down_proj.bias"),
        ("model.embed_tokens.weight", 620, "model.embed_tokens.weight"),
        ("model.norm.weight", 7, "model.norm.weight"),
    ],
    ids=["a share", "a share of a bias", "a head of keys that both hold", "a whole bias", "the vocabulary", "a norm"],
)
@pytest.mark.parametrize("worker", [0, 1])
def test_one_wrong_element_on_one_worker_stops_the_run(policy, server, sampler, worker, name, row, named):
    if worker == 0:
        row = {95: 0, 127: 0, 620: 0}.get(row, row)
    spoil(server, worker=worker, name=name, row=row)
    with pytest.raises(WeightPushError, match=rf"1 of the engine's \d+ parameters differ .*\({named}"):
        sampler.load_weights(policy[0])


def test_a_worker_that_keeps_old_weights_stops_the_run(policy, server, sampler):
    sampler.load_weights(policy[0])
    update(policy[0], 9)
    spoil(server, worker=1, stale=True)
    with pytest.raises(WeightPushError, match=r"of the engine's \d+ parameters differ"):
        sampler.load_weights(policy[0])


def test_a_worker_that_fails_is_named_and_leaves_the_others_in_step(policy, server, sampler):
    for worker in (0, 1):
        spoil(server, worker=worker, raises=True)
        with pytest.raises(ServerError, match=rf"worker {worker} failed: KeyError: .a worker of the test.*resume=RUN"):
            sampler.load_weights(policy[0])
    sampler.load_weights(policy[0])


def test_a_worker_that_dies_is_noticed(policy, server, sampler):
    """The last test: vLLM ends the whole server."""
    spoil(server, worker=1, dies=True)
    with pytest.raises(ServerError, match="resume=RUN"):
        sampler.load_weights(policy[0])
