#!/usr/bin/env python3
"""Peak memory and time of the head, forward and backward: r1lit's beside the plain way, and Liger's on CUDA.

Plain is what a trainer does that keeps all logits: ``F.linear``, then cross-entropy in float32. Each side runs in a
process of its own, several rounds in turn; memory is what the side needs above its inputs (hidden states, head weight
and their gradients). The last line is JSON.

    python tools/bench_head.py [--tokens 32768] [--vocabulary 151936] [--hidden 1536] [--rounds 3]

On a CPU the defaults are a hidden size of 64, and 4,096 tokens for the plain way, whose memory and time grow with them.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from r1lit.functional import head_logprobs

PLAIN_ON_CPU = 4096
MIB = 2**20


def plain(hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    return -F.cross_entropy(F.linear(hidden, weight).float(), ids, reduction="none")


def lean(hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    return head_logprobs(hidden, weight, ids)[0]


def liger(hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    return -liger_fused_linear_cross_entropy(hidden, weight, ids, reduction="none")


SIDES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"plain": plain, "r1lit": lean, "liger": liger}


def peak(device: torch.device) -> int:
    """Bytes, the most that were held so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(side: str, tokens: int, vocabulary: int, hidden_size: int, device: torch.device) -> dict[str, float]:
    """Seconds of a forward and backward, and MiB above its inputs, outputs and their gradients."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    hidden = torch.randn(tokens, hidden_size, device=device, dtype=dtype, requires_grad=True)
    weight = (torch.randn(vocabulary, hidden_size, device=device) / hidden_size**0.5).to(dtype).requires_grad_()
    ids = torch.randint(vocabulary, (tokens,), device=device)
    upstream = torch.randn(tokens, device=device) / tokens
    # A small pass first: libraries and kernels load, and both gradients come to be.
    SIDES[side](hidden[:8], weight, ids[:8]).sum().backward()
    hidden.grad.zero_(), weight.grad.zero_()
    before = peak(device)
    start = time.perf_counter()
    (SIDES[side](hidden, weight, ids) * upstream).sum().backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return {"seconds": time.perf_counter() - start, "mib": (peak(device) - before) / MIB}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--vocabulary", type=int, default=151936)
    parser.add_argument("--hidden", type=int, default=1536 if cuda else 64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = torch.device("cuda" if cuda else "cpu")
    if options.side:
        print(json.dumps(measure(options.side, options.tokens, options.vocabulary, options.hidden, device)))
        return
    found: dict[str, list[dict[str, float]]] = {}
    sizes = {side: options.tokens for side in SIDES if cuda or side != "liger"}
    if not cuda:
        sizes["plain"] = min(options.tokens, PLAIN_ON_CPU)
    for _ in range(options.rounds):
        for side, tokens in sizes.items():
            shape = ["--tokens", tokens, "--vocabulary", options.vocabulary, "--hidden", options.hidden]
            command = [sys.executable, __file__, "--side", side, *map(str, shape)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == 0:
                found.setdefault(side, []).append(json.loads(done.stdout))
            else:
                print(f"{side} did not run: {done.stderr.strip().splitlines()[-1]}")
    print(f"head on {device}, vocabulary {options.vocabulary:,}, hidden size {options.hidden:,}; medians")
    report = {}
    for side, rounds in found.items():
        seconds, mib = (statistics.median(one[key] for one in rounds) for key in ("seconds", "mib"))
        report[side] = {"tokens": sizes[side], "seconds": round(seconds, 3), "mib": round(mib)}
        per_token = seconds / sizes[side] * 1e6
        print(f"{side:>6}: {sizes[side]:>7,} tokens  {seconds:8.2f} s  {per_token:7.1f} us a token  {mib:9,.0f} MiB")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
