"""Digests of weights, what a push is refused for, and the channel to another process; vLLM itself is not needed."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest
import torch
import torch.distributed as dist

from r1lit.models.loading import ModelSettings, load_policy
from r1lit.rollout.settings import ServerSettings
from r1lit.rollout.vllm_server import RemoteEngine, ServerError
from r1lit.rollout.vllm_transfer import Channel
from r1lit.rollout.vllm_weights import (
    Held,
    Received,
    Sent,
    WeightPushError,
    digest,
    named_weights,
    require_received,
    together,
)

FUSED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}


@pytest.fixture(scope="module")
def policy():
    return load_policy(ModelSettings(path="tiny"))[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_digest_sees_every_bit_and_adds_up(dtype):
    tensor = torch.randn(300, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert digest(torch.cat([tensor[200:], torch.zeros(7, 40, dtype=dtype), tensor[:200]])) == digest(tensor)
    assert (digest(tensor[:123]) + digest(tensor[123:])) % 2**64 == digest(tensor)
    for row, column in [(0, 0), (17, 3), (299, 39)]:
        changed = tensor.clone()
        changed[row, column] = torch.nextafter(changed[row, column], torch.tensor(9.0, dtype=dtype))
        assert digest(changed) != digest(tensor)
    swapped = tensor.clone()
    swapped[0, 0], swapped[0, 1] = tensor[0, 0] + 1, tensor[0, 1] - 1  # the same sum of values
    assert digest(swapped) != digest(tensor)


def whole(sent: dict[str, int]) -> dict[str, int | None]:
    """What an engine reports that fuses q, k and v."""
    held: dict[str, int | None] = {}
    for name, value in sent.items():
        name = re.sub(r"\.[qkv]_proj\.", ".qkv_proj.", name)
        held[name] = ((held.get(name) or 0) + value) % 2**64
    return held


def exchanged(held: dict[str, int | None]) -> dict[str, int | None]:
    """Two layers' weights in each other's place, which leaves the sum of all as it is."""
    first, second = (f"model.layers.{number}.mlp.down_proj.weight" for number in (0, 1))
    return held | {first: held[second], second: held[first]}


@pytest.fixture
def sent(policy):
    weights = Sent(named_weights(policy), torch.bfloat16)
    assert all(tensor.dtype == torch.bfloat16 for _, tensor in weights)
    return weights.digests


def test_what_was_sent_is_accepted(sent):
    assert sum("qkv_proj" in name for name in whole(sent)) == 2
    require_received(sent, "a-1", Received("a-1", whole(sent), fused=FUSED))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda held: {"version": "a-0"}, "holds weights a-0, but a-1 were pushed"),
        (lambda held: {"digests": held | {"model.norm.weight": 1}}, r"1 of the engine's 16 .*\(model.norm.weight\)"),
        (lambda held: {"digests": held | {"model.norm.weight": None}}, r"\(model.norm.weight\)"),
        (lambda held: {"digests": {k: v for k, v in held.items() if "0.mlp.down" not in k}}, "layers.0.mlp.down_proj"),
        (lambda held: {"digests": exchanged(held)}, r"2 of the engine.*\(model.layers.0.mlp.down_proj.weight, "),
        (lambda held: {"stale": ["lm_head.weight"]}, r"\(lm_head.weight \(its packed copy\)\)"),
    ],
    ids=["an older version", "another value", "not loaded", "unknown to the engine", "exchanged", "a packed copy"],
)
def test_anything_else_stops_the_run(sent, spoil, said):
    values = {"version": "a-1", "digests": whole(sent), "fused": FUSED}
    with pytest.raises(WeightPushError, match=said) as raised:
        require_received(sent, "a-1", Received(**(values | spoil(whole(sent)))))
    assert "resume=RUN" in str(raised.value)


def connected(workers: int = 1, timeout: float = 30.0) -> list[Channel]:
    """The sender's end, and those of the workers."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {
        "workers": workers,
        "host": "127.0.0.1",
        "port": store.port,
        "backend": "gloo",
        "timeout": timeout,
        "device": torch.device("cpu"),
    }
    with ThreadPoolExecutor(workers) as threads:
        ends = [threads.submit(Channel, rank=1 + worker, **common) for worker in range(workers)]
        return [Channel(rank=0, store=store, **common), *(end.result() for end in ends)]


def received(channel: Channel, into: list) -> threading.Thread:
    def run():
        try:
            into.extend(channel.receive())
        except RuntimeError as error:
            into.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_weights_cross_the_channel_bit_by_bit(policy):
    sender, *receivers = connected(workers=3)
    for dtype in (torch.float32, torch.bfloat16):
        got: list[list] = [[] for _ in receivers]
        threads = [received(*pair) for pair in zip(receivers, got, strict=True)]
        weights = Sent(named_weights(policy), dtype)
        sender.send(weights)
        for thread, found in zip(threads, got, strict=True):
            thread.join()
            assert {name: digest(tensor) for name, tensor in found} == weights.digests
            assert all(tensor.dtype == dtype for _, tensor in found)


def test_a_sender_that_fails_leaves_nobody_waiting(policy):
    def failing():
        yield next(named_weights(policy))
        raise MemoryError("merging an adapter")

    sender, *receivers = connected(workers=2)
    got: list[list] = [[] for _ in receivers]
    threads = [received(*pair) for pair in zip(receivers, got, strict=True)]
    with pytest.raises(MemoryError):
        sender.send(failing())
    for thread, found in zip(threads, got, strict=True):
        thread.join()
        assert "broke off" in str(found[-1])


def test_a_worker_that_does_not_listen_is_not_waited_for_without_end(policy):
    sender, listens, _ = connected(workers=2, timeout=1.0)
    thread = received(listens, [])
    with pytest.raises(RuntimeError):
        sender.send(named_weights(policy))
    del sender
    thread.join()


WORKERS = 4
WHOLE = {"mlp": torch.arange(1.0, 13), "norm": torch.arange(20.0, 24), "qkv": torch.arange(30.0, 42)}


def spread_over_workers() -> list[dict[str, list]]:
    """What each of four workers says of a parameter that is cut up, of one that all hold, and of queries (the first
    eight) with two heads of keys, each of which two workers hold."""
    queries, keys = WHOLE["qkv"].split([8, 4])
    return [
        {
            "mlp": [(digest(WHOLE["mlp"].chunk(WORKERS)[worker]), worker, WORKERS)],
            "norm": [(digest(WHOLE["norm"]), 0, 1)],
            "qkv": [
                (digest(queries.chunk(WORKERS)[worker]), worker, WORKERS),
                (digest(keys.chunk(2)[worker // 2]), worker // 2, 2),
            ],
        }
        for worker in range(WORKERS)
    ]


def digests_together(said: list[dict[str, list]]) -> dict[str, int | None]:
    return dict(together([Held(worker, "a-1", one) for worker, one in enumerate(said)]).digests)


def test_what_several_workers_hold_adds_up_to_the_whole():
    assert digests_together(spread_over_workers()) == {name: digest(tensor) for name, tensor in WHOLE.items()}


def test_no_worker_s_share_can_be_wrong_unnoticed():
    right = digests_together(spread_over_workers())
    for worker in range(WORKERS):
        for name, part in [("mlp", 0), ("norm", 0), ("qkv", 0), ("qkv", 1)]:
            said = spread_over_workers()
            value, index, of = said[worker][name][part]
            said[worker][name][part] = (value ^ 1, index, of)
            found = digests_together(said)
            assert found.pop(name) != right[name]
            assert found.items() <= right.items()
            for missing in (None, []):
                said[worker][name] = missing
                assert digests_together(said)[name] is None
    assert digests_together(spread_over_workers()[:-1])["mlp"] is None


def test_a_share_taken_for_another_does_not_pass():
    right, said = digests_together(spread_over_workers()), spread_over_workers()
    for worker, one in enumerate(said):
        one["mlp"] = [(one["mlp"][0][0], 0, 1)]
        one["norm"] = [(one["norm"][0][0], worker, WORKERS)]
    found = digests_together(said)
    assert found["mlp"] is None
    assert found["norm"] != right["norm"]


def test_workers_of_different_pushes_are_told_apart():
    held = [Held(0, "a-2", {}), Held(1, "a-1", {}, stale=["lm_head.weight"])]
    assert together(held).version == "a-2, a-1"
    assert together(held).stale == ["lm_head.weight of worker 1"]


def test_a_server_that_is_not_there(policy):
    with pytest.raises(ServerError, match=r"no vLLM server answers there .*vllm_serve"):
        RemoteEngine(policy, ServerSettings(url="http://127.0.0.1:9"))


def test_another_kind_of_server(policy):
    from chat_server import Said, serving

    with (
        serving(lambda body, number: Said(status=404)) as server,
        pytest.raises(ServerError, match="does not offer /collective_rpc, so it is no server of r1lit's"),
    ):
        RemoteEngine(policy, ServerSettings(url=server.url.removesuffix("/v1")))


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_vllm_the_command_says_how_to_get_it(r1lit):
    done = r1lit("rollout=vllm", check=False)
    assert done.returncode == 2
    assert "rollout.kind=vllm, but vLLM is not installed; install it with pip install 'r1lit[vllm]'" in done.stderr
    assert "Traceback" not in done.stderr
