#!/usr/bin/env python3
"""How the cost of a GRPO step grows with prompts, group size, length and ranks: a table, and the exponents fitted.

One thing is varied at a time, the others at their base. Ends of sequences are ignored, so that every completion
has exactly --length tokens; sizes come in turn, several rounds, and a step's seconds are medians. An exponent is the b
of seconds = a * size ** b, by least squares on logarithms: 1 where cost grows in proportion. The seconds are
wall time, and on a CPU the seconds of CPU of all threads too, which tell more on a machine that others use. The last
line is JSON.

Ranks need trainer=ddp or trainer=fsdp and several devices: --ranks is refused where r1lit has neither.

    python tools/bench_scaling.py [--rounds 3] [--steps 2] [--prompts 2,4,8] [--group 4,8,16] [--length 16,32,64]
    python tools/bench_scaling.py --device cuda --model 1.5b --prompts 4,8,16 --group 8,16 --length 512,2048,8192
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Sequence
from functools import partial

import lightning
import torch
from benching import device_of, endless, fit, in_turn, machine, make_model, silence, wait

from r1lit.data.module import StepBatch
from r1lit.modules.grpo import GRPO
from r1lit.modules.settings import AlgorithmSettings, OptimizerSettings
from r1lit.rollout.transformers_sampler import TransformersSampler
from r1lit.types import Prompt, Rollout, Sampling, Scored

VARIED = ("prompts", "group", "length")
PROMPT_TOKENS = 16
PHASES = ("step", "sample", "logprobs", "update")


class Parity:
    """Rewards a third of the tokens, at no cost: what is measured is the model's work."""

    def submit(self, index: int, group: object) -> None:
        pass

    def gather(self, rollout: Rollout, progress: float = 1.0) -> Scored:
        share = ((rollout.completion_ids % 3 == 0) & rollout.completion_mask).sum(-1) / rollout.lengths
        return Scored(rollout, ("parity",), torch.tensor([1.0]), share[:, None].float().cpu())


class Watch(lightning.Callback):
    """Seconds by phase of each step, and of CPU."""

    def __init__(self, device: torch.device):
        self.device, self.steps = device, []

    def on_train_batch_start(self, *_) -> None:
        self._began, self._cpu = time.perf_counter(), time.process_time()

    def on_train_batch_end(self, trainer, module, *_) -> None:
        wait(self.device)
        seconds = {"step": time.perf_counter() - self._began, "cpu": time.process_time() - self._cpu}
        self.steps.append(seconds | {name: module.metrics.get(f"time/{name}", 0.0) for name in PHASES[1:]})


def run(options: argparse.Namespace, sizes: dict[str, int], seed: int) -> list[dict[str, float]]:
    """Steps of one size; the first is warm-up."""
    device = torch.device(options.device)
    policy, tokenizer = make_model(options.model, device)
    module = GRPO(
        policy=policy,
        sampler=endless(TransformersSampler(policy, tokenizer, max_batch_rows=options.max_batch_rows)),
        rewards=Parity(),
        algorithm=AlgorithmSettings(
            steps=options.steps + 1,
            prompts_per_step=sizes["prompts"],
            group_size=sizes["group"],
            micro_batch_tokens=options.micro_batch_tokens,
            kl_coef=0.001,
        ),
        optimizer=OptimizerSettings(lr=1e-12),
        sampling=Sampling(max_tokens=sizes["length"]),
        seed=seed,
    )
    starts = [5 + n % 64 for n in range(sizes["prompts"])]
    prompts = [Prompt(ids=tuple(range(start, start + PROMPT_TOKENS)), raw="") for start in starts]
    watch = Watch(device)
    fit(module, [StepBatch(step, prompts) for step in range(options.steps + 1)], device, [watch])
    assert module.metrics["completions/min_length"] == sizes["length"], "a completion ended before its length"
    return watch.steps[1:]


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The b of cost = a * size ** b, by least squares on logarithms.

    >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    x, y = ([math.log(value) for value in values] for values in (sizes, costs))
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - mean_x) ** 2 for a in x)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", default="tiny", help="a model folder, or the shape 1.5b; the embedded tiny model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="measured ones of a round")
    for name, sizes in (("prompts", "2,4,8"), ("group", "4,8,16"), ("length", "16,32,64")):
        parser.add_argument(f"--{name}", default=sizes, help="sizes by comma; the middle one is the base")
    parser.add_argument("--ranks", default="", help="numbers of processes by comma")
    parser.add_argument("--micro-batch-tokens", type=int, default=16384)
    parser.add_argument("--max-batch-rows", type=int, default=256)
    options = parser.parse_args()
    if options.ranks:
        raise SystemExit(
            f"--ranks {options.ranks}: this bench does not start several processes; time runs of tools/torchrun N "
            "trainer=ddp instead"
        )
    return options


def main() -> None:
    options = parse()
    silence()
    device = device_of(options)
    sizes = {name: [int(size) for size in getattr(options, name).split(",")] for name in VARIED}
    base = {name: values[len(values) // 2] for name, values in sizes.items()}
    cells = {(name, size): base | {name: size} for name in VARIED for size in sizes[name]}
    taken: dict[tuple[str, int], list[dict[str, float]]] = {cell: [] for cell in cells}
    sides = {cell: partial(run, options, at) for cell, at in cells.items()}
    for number, cell, steps in in_turn(sides, options.rounds):
        taken[cell] += steps
        print(f"round {number + 1}/{options.rounds}  {cell[0]}={cell[1]}  {steps[-1]['step']:.3f} s", flush=True)
    report(sizes, base, taken, machine(device))


def report(sizes: dict[str, list[int]], base: dict[str, int], taken: dict, where: dict) -> None:
    """The table with the exponents, then one line of JSON."""
    columns = (*PHASES, "cpu") if where["kind"] == "cpu" else PHASES
    medians = {
        cell: {name: statistics.median(step[name] for step in steps) for name in columns}
        for cell, steps in taken.items()
    }
    print(f"\nbase: {base}, prompts of {PROMPT_TOKENS} tokens; seconds a step, medians; {where}")
    print(f"{'':16}" + "".join(f"{name:>10}" for name in columns))
    fitted: dict[str, dict[str, float]] = {}
    for name, values in sizes.items():
        for size in values:
            print(f"{name + '=' + str(size):16}" + "".join(f"{medians[name, size][c]:10.3f}" for c in columns))
        costs = {column: [medians[name, size][column] for size in values] for column in columns}
        fitted[name] = {c: round(exponent(values, costs[c]), 3) for c in columns if min(costs[c]) > 0}
        print(f"{'  exponent':16}" + "".join(f"{fitted[name].get(c, math.nan):10.2f}" for c in columns))
    seconds = {f"{name}={size}": {k: round(v, 4) for k, v in row.items()} for (name, size), row in medians.items()}
    print(json.dumps({"exponents": fitted, "base": base, "seconds": seconds, "ranks": "not measured", **where}))


if __name__ == "__main__":
    main()
