"""Two nodes: network namespaces with a cable between them, joined by torchrun's rendezvous."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from launching import SHORT, TORCHRUN, environment
from shared_runs import run_cases

from r1lit.callbacks.recorder import read_metrics

ADDRESSES = ("10.251.7.1", "10.251.7.2")
RUN = (*SHORT, "evaluation.enabled=false", "algorithm.steps=500")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def nodes() -> Iterator[list[str]]:
    """The names of two network namespaces, each with one end of a cable."""
    if not shutil.which("ip"):
        pytest.skip("the test of two nodes needs iproute2 (on Debian: apt install iproute2)")
    names = [f"r1lit{os.getpid()}{end}" for end in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ends = [f"r1{os.getpid()}{end}" for end in "ab"]
        ip("link", "add", ends[0], "netns", names[0], "type", "veth", "peer", "name", ends[1], "netns", names[1])
        for name, end, address in zip(names, ends, ADDRESSES, strict=True):
            ip("-n", name, "link", "set", end, "name", "cable")
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces cannot be made here, which takes root: {error.stderr.strip()}")
    finally:
        for name in names:
            with suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)


def start(node: int, names: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    meeting = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:29400", "--rdzv-id", "two")
    # Both nodes have this machine's name, by which torchrun would tell whose address it is.
    meeting += ("--rdzv-conf", f"is_host={int(node == 0)}")
    torchrun = (*TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1", *meeting, "--local-addr", ADDRESSES[node])
    return subprocess.Popen(
        ["ip", "netns", "exec", names[node], *torchrun, "-m", "r1lit", *RUN, "trainer=fsdp"],
        cwd=folder,
        env=environment(GLOO_SOCKET_IFNAME="cable"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until(condition, nodes: Sequence[subprocess.Popen[str]], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        ended = [node for node in nodes if node.poll() is not None]
        assert not ended, ended[0].stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_two_nodes_train_as_one_process_and_a_signal_to_one_stops_both_after_the_same_step(nodes, tmp_path):
    started = [start(node, nodes, tmp_path) for node in range(2)]

    def steps() -> list[dict]:
        return [row for path in tmp_path.glob("runs/r1_zero/*/metrics.jsonl") for row in read_metrics(path)]

    try:
        until(lambda: len(steps()) >= 2, started)
        (worker,) = psutil.Process(started[1].pid).children()
        worker.send_signal(signal.SIGTERM)
        said = [node.communicate(timeout=200)[0] for node in started]
    finally:
        for node in started:
            node.kill()
    (run,) = (tmp_path / "runs" / "r1_zero").iterdir()
    assert sum(text.count("stopped by SIGTERM; go on with: r1lit resume=") for text in said) == 1, said
    done = len(steps())
    newest = max((run / "checkpoints").iterdir())
    assert newest.name == f"step_{done:06d}.ckpt" and len(list(newest.glob("*.distcp"))) == 2
    assert re.search(r'"status": "stopped"', (run / "summary.json").read_text())

    run_cases(tmp_path, {"alone": (*RUN, "algorithm.steps=2")})
    for expected, found in zip(read_metrics(tmp_path / "alone" / "metrics.jsonl"), steps(), strict=False):
        for name in ("reward", "loss", "grad_norm", "kl", "entropy", "num_tokens"):
            assert found[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-5), name
