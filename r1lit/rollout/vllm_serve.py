"""Start a vLLM server that a run can sample from: ``python -m r1lit.rollout.vllm_serve MODEL [options of vllm serve]``.

``--tensor-parallel-size N`` spreads the model over N GPUs of the host; other ways to spread it are refused by the
trainer. (On CPUs vLLM wants a memory node for each worker, unless ``VLLM_CPU_OMP_THREADS_BIND=nobind`` is set.) Rotary
positions that the model's folder has not are given with ``--hf-overrides``, as the trainer's error spells it.

It listens on this host alone unless ``--host`` says otherwise. Whoever reaches it can change its weights, so it belongs
on a private network.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from transformers import AutoConfig

from r1lit.models.files import load_part, locate
from r1lit.rollout.vllm_engine import scheduling
from r1lit.rollout.vllm_worker import LOGPROBS, RECEIVER


def arguments(model: str, options: Sequence[str]) -> list[str]:
    """What vLLM's server is given: what a run needs, and the user's own options, which win."""
    path = locate(model)
    needed = {
        "--host": "127.0.0.1",
        "--worker-extension-cls": RECEIVER,
        "--logprobs-mode": LOGPROBS,
        "--generation-config": "vllm",
    }
    # Token ids in and out are one of vLLM's endpoints for several servers in a row.
    words = [*(word for pair in needed.items() for word in pair), "--enable-scale-out"]
    scheduled = scheduling(load_part("config", model, AutoConfig, path), longest=None)
    if scheduled:
        words += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", str(scheduled["max_num_batched_tokens"])]
    return ["--model", path, *words, *options]


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    # The endpoints that take weights are part of vLLM's development mode.
    os.environ["VLLM_SERVER_DEV_MODE"] = "1"
    # `vllm serve` itself asks for a package of that name, which vllm-cpu is not.
    program = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    os.execv(sys.executable, [*program, *arguments(sys.argv[1], sys.argv[2:])])


if __name__ == "__main__":
    main()
