#!/usr/bin/env python3
"""How the cost of a GRPO step grows with prompts, group size, length and ranks: a table, and the exponents fitted.

One thing is varied at a time, the others at their base. Ends of sequences are ignored, so that every completion
has exactly --length tokens; sizes come in turn, several rounds, and a step's seconds are medians. An exponent is the b
of seconds = a * size ** b, by least squares on logarithms: 1 where cost grows in proportion. The seconds are
wall time, and on a CPU the seconds of CPU of all threads too, which tell more on a machine that others use. The last
line is JSON.

With --ranks the base batch, always the same one, is shared out among so many processes (torchrun starts them on this
machine), which learn under --trainer. The speed-up is over the fewest of them, the efficiency its share of what as
many more could do at best, and the exponent -1 where they do it. On a CPU each has one thread, one process alone too,
whose figures are thus not those of the other rows.

    python tools/bench_scaling.py [--rounds 3] [--steps 2] [--prompts 2,4,8] [--group 4,8,16] [--length 16,32,64]
    python tools/bench_scaling.py --ranks 1,2 --trainer fsdp
    python tools/bench_scaling.py --device cuda --model 1.5b --prompts 4,8,16 --group 8,16 --length 512,2048,8192
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import lightning
import torch
from benching import device_of, endless, fit, in_turn, machine, make_model, silence, wait

from r1lit.data.module import StepBatch
from r1lit.distributed.launch import alone, join, launched, leave
from r1lit.distributed.plan import Sharding, prove_head
from r1lit.distributed.ranks import Ranks
from r1lit.distributed.sampling import fits, holding
from r1lit.modules.grpo import GRPO
from r1lit.modules.settings import AlgorithmSettings, OptimizerSettings
from r1lit.modules.sharing import SharedRewards, SharedSampler
from r1lit.rollout.transformers_sampler import TransformersSampler
from r1lit.types import Prompt, Rollout, Sampling, Scored

VARIED = ("prompts", "group", "length")
PROMPT_TOKENS = 16
PHASES = ("step", "sample", "logprobs", "update")

Steps = list[dict[str, float]]


class Parity:
    """Rewards a third of the tokens, at no cost: what is measured is the model's work."""

    def __init__(self):
        self.rewards: dict[str, object] = {}

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


def run(options: argparse.Namespace, sizes: dict[str, int], seed: int, strategy: str = "single") -> Steps:
    """Steps of one size, by all the processes that were started; the first is warm-up."""
    device, launch = torch.device(options.device), launched()
    ranks = Ranks(launch.rank, launch.size, lockstep=strategy == "fsdp")
    policy, tokenizer = make_model(options.model, device)
    if ranks.lockstep:
        alone()
        prove_head(Sharding.of(device.type, ranks.size).apply(policy))
    sampler = endless(TransformersSampler(policy, tokenizer, max_batch_rows=options.max_batch_rows))
    rewards = Parity()
    if ranks.lockstep or ranks.size > 1:
        held = holding(policy, ranks, fits(policy, ranks, launch.local_size)) if ranks.lockstep else None
        sampler, rewards = SharedSampler(sampler, ranks, device, held), SharedRewards(rewards)
    module = GRPO(
        policy=policy,
        sampler=sampler,
        rewards=rewards,
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
        ranks=ranks,
    )
    starts = [5 + n % 64 for n in range(sizes["prompts"])]
    prompts = [Prompt(ids=tuple(range(start, start + PROMPT_TOKENS)), raw="") for start in starts]
    watch = Watch(device)
    fit(module, [StepBatch(step, prompts) for step in range(options.steps + 1)], device, [watch], strategy)
    assert module.metrics["completions/min_length"] == sizes["length"], "a completion ended before its length"
    return together(ranks.gather(watch.steps))[1:]


def together(by_rank: Sequence[Steps]) -> Steps:
    """The steps of all processes as one: wall time is the slowest's, CPU everyone's.

    >>> together([[{"step": 2.0, "cpu": 1.5}], [{"step": 1.9, "cpu": 1.0}]])
    [{'step': 2.0, 'cpu': 2.5}]
    """
    return [
        {name: (sum if name == "cpu" else max)(step[name] for step in steps) for name in steps[0]}
        for steps in zip(*by_rank, strict=True)
    ]


def run_ranks(options: argparse.Namespace, count: int, seed: int) -> Steps:
    """Steps of the base batch in so many processes."""
    threads = {"OMP_NUM_THREADS": "1"} if options.device == "cpu" else {}
    with TemporaryDirectory() as folder:
        found = Path(folder) / "steps.json"
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        done = subprocess.run(
            [*torchrun, __file__, *sys.argv[1:], "--seed", str(seed), "--steps-to", str(found)],
            env=os.environ | threads,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"--ranks {count}: a process failed\n{done.stderr}")
        return json.loads(found.read_text())


def be_one_rank(options: argparse.Namespace, base: dict[str, int]) -> None:
    """What a process does that `run_ranks` has started."""
    join()
    steps = run(options, base, options.seed, options.trainer)
    if launched().first:
        Path(options.steps_to).write_text(json.dumps(steps))
    leave()


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The b of cost = a * size ** b, by least squares on logarithms.

    >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    x, y = ([math.log(value) for value in values] for values in (sizes, costs))
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - mean_x) ** 2 for a in x)


def gains(seconds: dict[int, float]) -> dict[int, tuple[float, float]]:
    """Speed-up and efficiency by ranks, from a step's seconds by ranks.

    >>> gains({2: 6.0, 4: 4.0})
    {2: (1.0, 1.0), 4: (1.5, 0.75)}
    """
    fewest = min(seconds)
    speed_ups = {count: seconds[fewest] / taken for count, taken in seconds.items()}
    return {count: (speed_up, speed_up * fewest / count) for count, speed_up in speed_ups.items()}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", default="tiny", help="a model folder, or the shape 1.5b; the embedded tiny model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="measured ones of a round")
    for name, sizes in (("prompts", "2,4,8"), ("group", "4,8,16"), ("length", "16,32,64")):
        parser.add_argument(f"--{name}", default=sizes, help="sizes by comma; the middle one is the base")
    parser.add_argument("--ranks", default="", help="numbers of processes by comma")
    parser.add_argument("--trainer", choices=["ddp", "fsdp"], default="ddp", help="how several processes learn")
    parser.add_argument("--micro-batch-tokens", type=int, default=16384)
    parser.add_argument("--max-batch-rows", type=int, default=256)
    # Said to the processes that this one starts.
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--steps-to", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    silence()
    device = device_of(options)
    sizes = {name: [int(size) for size in getattr(options, name).split(",") if size] for name in (*VARIED, "ranks")}
    base = {name: sizes[name][len(sizes[name]) // 2] for name in VARIED}
    if options.steps_to:
        return be_one_rank(options, base)
    if device.type == "cuda" and max(sizes["ranks"], default=0) > torch.cuda.device_count():
        raise SystemExit(f"--ranks {options.ranks}, but there are {torch.cuda.device_count()} GPUs, one for each rank")
    sides = {(name, size): partial(run, options, base | {name: size}) for name in VARIED for size in sizes[name]}
    sides |= {("ranks", count): partial(run_ranks, options, count) for count in sizes["ranks"]}
    taken: dict[tuple[str, int], Steps] = {cell: [] for cell in sides}
    for number, cell, steps in in_turn(sides, options.rounds):
        taken[cell] += steps
        print(f"round {number + 1}/{options.rounds}  {cell[0]}={cell[1]}  {steps[-1]['step']:.3f} s", flush=True)
    report({name: values for name, values in sizes.items() if values}, base, taken, machine(device), options.trainer)


def report(sizes: dict[str, list[int]], base: dict[str, int], taken: dict, where: dict, trainer: str) -> None:
    """The table with the exponents, then one line of JSON."""
    columns = (*PHASES, "cpu") if where["kind"] == "cpu" else PHASES
    medians = {
        cell: {name: statistics.median(step[name] for step in steps) for name in columns}
        for cell, steps in taken.items()
    }
    gained = gains({count: medians["ranks", count]["step"] for count in sizes["ranks"]}) if "ranks" in sizes else {}
    print(f"\nbase: {base}, prompts of {PROMPT_TOKENS} tokens; seconds a step, medians; {where}")
    print(f"{'':16}" + "".join(f"{name:>10}" for name in columns))
    fitted: dict[str, dict[str, float]] = {}
    for name, values in sizes.items():
        for size in values:
            line = f"{name + '=' + str(size):16}" + "".join(f"{medians[name, size][c]:10.3f}" for c in columns)
            print(line + (SPED_UP.format(*gained[size]) if name == "ranks" else ""))
        costs = {column: [medians[name, size][column] for size in values] for column in columns if len(values) > 1}
        fitted[name] = {c: round(exponent(values, cost), 3) for c, cost in costs.items() if min(cost) > 0}
        if costs:
            print(f"{'  exponent':16}" + "".join(f"{fitted[name].get(c, math.nan):10.2f}" for c in columns))
    if gained:
        print(f"ranks: trainer={trainer}" + (", one thread a process" if where["kind"] == "cpu" else ""))
    seconds = {f"{name}={size}": {k: round(v, 4) for k, v in row.items()} for (name, size), row in medians.items()}
    ranks = {"trainer": trainer, "gains": gained} if gained else "not measured"
    print(json.dumps({"exponents": fitted, "base": base, "seconds": seconds, "ranks": ranks, **where}))


SPED_UP = "   speed-up {:.2f}, efficiency {:.0%}"


if __name__ == "__main__":
    main()
