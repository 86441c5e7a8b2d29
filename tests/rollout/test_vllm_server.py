"""A real vLLM server in another process, and whole runs through it and through the engine in-process."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from shared_runs import run_cases, share_cases
from vllm_serving import PATIENCE_SECONDS, start, stop

from r1lit.callbacks.recorder import read_metrics
from r1lit.models.loading import ModelSettings, load_policy
from r1lit.rollout import vllm_sampler
from r1lit.rollout.settings import ServerSettings
from r1lit.rollout.transformers_sampler import TransformersSampler
from r1lit.rollout.vllm_sampler import Ask, Said, VLLMSampler
from r1lit.rollout.vllm_server import RemoteEngine, ServerError
from r1lit.rollout.vllm_weights import WeightPushError
from r1lit.settings import ConfigError
from r1lit.types import Prompt, Sampling

pytest.importorskip("vllm")
pytestmark = pytest.mark.timeout(1200)

PROMPTS = [Prompt(ids=tuple((7 * n + 3) % 600 for n in range(length)), raw="") for length in (300, 4, 55)]
QUICK = ["algorithm.steps=2", "algorithm.prompts_per_step=4", "algorithm.group_size=4", "data.limit=60"]
# 3 prompts on 2 processes: one has more to ask for than the other.
SHARED = [
    "algorithm=grpo",
    "algorithm.steps=3",
    "algorithm.prompts_per_step=3",
    "algorithm.group_size=3",
    "algorithm.minibatches=2",
    "rollout.max_tokens=16",
    "reward=[accuracy,format,overlong]",
    "reward.overlong.buffer=16",
    "optimizer.eps=1e-4",
    "data.limit=60",
    "evaluation.enabled=false",
    "preflight.enabled=false",
    "trainer.accelerator=cpu",
    "logger=none",
]
ALONE = ["evaluation.enabled=false", "preflight.enabled=false", "trainer.checkpoint_every=1"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    process, url = start("float32", tmp_path_factory.mktemp("server") / "log")
    yield process, url
    stop(process)


@pytest.fixture(scope="module")
def policy():
    return load_policy(ModelSettings(path="tiny"))


@pytest.fixture(scope="module")
def sampler(server, policy) -> VLLMSampler:
    return VLLMSampler(RemoteEngine(policy[0], ServerSettings(url=server[1], timeout=120)), *policy)


def test_after_each_update_the_greedy_tokens_are_transformers_own(policy, sampler):
    model, tokenizer = policy
    plain, greedy = TransformersSampler(model, tokenizer), Sampling(temperature=0.0, max_tokens=24)
    seen = []
    for seed in range(3):
        sampler.load_weights(model)
        found, expected = (one.generate(PROMPTS, 2, greedy, seed=0) for one in (sampler, plain))
        assert [group.completion_ids for group in found.groups] == [group.completion_ids for group in expected.groups]
        torch.testing.assert_close(found.logprobs, expected.logprobs, atol=1e-4, rtol=0)
        seen.append([group.completion_ids for group in found.groups])
        noise = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=noise))
    assert seen[0] != seen[1]
    sampler.load_weights(model)


def test_groups_come_one_by_one_and_a_run_repeats(sampler):
    seen: list[int] = []
    sampling = Sampling(2.0, 0.9, 20)
    first = sampler.generate(PROMPTS, 4, sampling, seed=3, on_group=lambda b, group: seen.append(b))
    assert sorted(seen) == [0, 1, 2]
    again = sampler.generate(PROMPTS, 4, sampling, seed=3)
    assert [group.completion_ids for group in again.groups] == [group.completion_ids for group in first.groups]
    assert any(len({tuple(ids) for ids in group.completion_ids}) > 1 for group in first.groups)


def test_a_listener_that_fails_ends_its_own_requests_alone(sampler, monkeypatch):
    """Another process may be asking the server too."""
    engine, ended = sampler.engine, {}
    post, whole = engine._post, Sampling(max_tokens=sampler.engine.room - 4)

    def posted(path: str, body: dict) -> dict:
        answer = post(path, body)
        if path.endswith("generate"):
            ended[body["request_id"]] = answer["choices"][0]["finish_reason"]
        return answer

    def fail(prompt: int, number: int, said: Said) -> None:
        raise KeyError("a reward")

    monkeypatch.setattr(engine, "_post", posted)
    with ThreadPoolExecutor(1) as thread:
        other = thread.submit(engine._ask, Ask(PROMPTS[1].ids, 1, 0, whole, ()), "another's")
        with pytest.raises(KeyError):
            engine.complete([Ask(PROMPTS[1].ids, 1, 0, Sampling(max_tokens=1), ()), Ask((5,), 1, 0, whole, ())], fail)
        assert len(other.result()[0].ids) == whole.max_tokens
    assert ended.pop("another's") == "length"
    assert sorted(ended.values()) == ["abort", "length"]


def test_a_push_that_loses_a_weight_stops_the_run(policy, sampler, monkeypatch):
    model, _ = policy
    send = sampler.engine._channel.send
    monkeypatch.setattr(
        sampler.engine._channel, "send", lambda weights: send(pair for pair in weights if "norm" not in pair[0])
    )
    with torch.no_grad():
        model.model.norm.weight.add_(0.5)
    with pytest.raises(WeightPushError, match=r"1 of the engine's 14 parameters .*\(model.norm.weight\)"):
        sampler.load_weights(model)
    monkeypatch.undo()
    sampler.load_weights(model)


def test_another_trainer_at_the_same_server_is_noticed(policy, server, sampler):
    other = VLLMSampler(RemoteEngine(policy[0], ServerSettings(url=server[1])), *policy)
    with pytest.raises(WeightPushError, match=f"drew tokens with weights {other.version}"):
        sampler.generate(PROMPTS, 1, Sampling(max_tokens=4), seed=0)


def test_a_server_of_another_model_is_refused(server):
    student, _ = load_policy(ModelSettings(path="tiny-student"))
    with pytest.raises(ConfigError, match=r"serves another model: .*hidden_size=128 \(here"):
        RemoteEngine(student, ServerSettings(url=server[1]))


@pytest.mark.parametrize("kind", ["vllm", "vllm_server"])
def test_a_whole_run(r1lit, server, tmp_path, kind):
    rollout = {
        "vllm": ["rollout.engine.enforce_eager=true", "rollout.engine.kv_cache_gb=0.1"],
        "vllm_server": [f"rollout.server.url={server[1]}"],
    }[kind]
    arguments = [f"rollout={kind}", *rollout, *QUICK, *ALONE, "name=a"]
    r1lit(*arguments, timeout=PATIENCE_SECONDS)
    (directory,) = (tmp_path / "runs" / "a").iterdir()
    # The state that a resumed run takes up reaches the engine too: its first samples come from it.
    r1lit(f"resume={directory}", *arguments, "algorithm.steps=3", timeout=PATIENCE_SECONDS)
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2]
    for row in rows:
        assert row["sampling/sampling_logp_difference/max"] < 1e-3
        assert row["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-3)
    assert "vLLM" in json.loads((directory / "summary.json").read_text())["sampler"]


def metrics(run: Path) -> list[dict]:
    return [
        {name: value for name, value in row.items() if not name.startswith(("time/", "perf/"))}
        for row in read_metrics(run / "metrics.jsonl")
    ]


def test_two_processes_learn_what_one_does(server, tmp_path):
    """Through the server, replicated, sharded and ahead of learning, and through an engine in each process."""
    remote = [*SHARED, "rollout=vllm_server", f"rollout.server.url={server[1]}"]
    local = [*SHARED, "rollout=vllm", "rollout.engine.enforce_eager=true", "rollout.engine.kv_cache_gb=0.1"]
    ahead = "rollout.staleness=1"
    run_cases(tmp_path, {"alone": remote, "alone_ahead": [*remote, ahead]})
    cases = {
        "ddp": [*remote, "trainer=ddp"],
        "fsdp": [*remote, "trainer=fsdp"],
        "fsdp_ahead": [*remote, "trainer=fsdp", ahead],
        "local_ddp_ahead": [*local, "trainer=ddp", ahead],
        "local_fsdp": [*local, "trainer=fsdp"],
    }
    share_cases(tmp_path, cases)
    assert [row["rollout/staleness"] for row in metrics(tmp_path / "fsdp_ahead")] == [0, 1, 1]
    for name in cases:
        alone = tmp_path / ("alone_ahead" if name.endswith("ahead") else "alone")
        for expected, found in zip(metrics(alone), metrics(tmp_path / name), strict=True):
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-4), name
        expected, found = (load_file(run / "model" / "model.safetensors") for run in (alone, tmp_path / name))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_an_engine_that_does_not_start_says_why(r1lit, tmp_path):
    """vLLM has closed the handlers of the run's own log by then."""
    tiny = ["rollout.engine.enforce_eager=true", "rollout.engine.kv_cache_gb=0.0001"]
    done = r1lit("rollout=vllm", *tiny, *QUICK, *ALONE, check=False, timeout=PATIENCE_SECONDS)
    assert done.returncode == 2
    assert "rollout.kind=vllm: vLLM does not start: No available memory for the cache blocks" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "runs").iterdir())


def test_a_server_that_dies_is_named(policy, server, sampler):
    """The last test: nothing is left of the server after it."""
    stop(server[0])
    with pytest.raises(ServerError, match=r"no vLLM server answers there .*resume=RUN"):
        sampler.generate(PROMPTS, 1, Sampling(max_tokens=4), seed=0)
    with pytest.raises(ServerError):
        sampler.load_weights(policy[0])


def test_half_precision_is_close(tmp_path):
    """The engine rounds as bfloat16 does, which the digests allow for and the probe tells from a wrong model."""
    model, tokenizer = load_policy(ModelSettings(path="tiny"))
    process, url = start("bfloat16", tmp_path / "log")
    try:
        sampler = VLLMSampler(RemoteEngine(model, ServerSettings(url=url)), model, tokenizer)
        rollout = sampler.generate(PROMPTS, 4, Sampling(max_tokens=16), seed=1)
        for row, prompt in enumerate(rollout.prompt_ids):
            ids = rollout.completion_ids[row][rollout.completion_mask[row]].tolist()
            apart = (rollout.logprobs[row, : len(ids)] - vllm_sampler._policy_logprobs(model, prompt, ids)).abs()
            assert 0 < apart.max() < 0.5
    finally:
        stop(process)
