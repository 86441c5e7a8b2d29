#!/usr/bin/env python3
"""Fine-tuning with r1lit beside TRL's SFTTrainer with packing: tokens a second, padding left out.

Both sides train one model (the learning rate is next to 0) on the same demonstrations, of varied lengths, on the tokens
of the responses, with the same arithmetic, optimiser, clipping and metrics, and about the same number of tokens an
update; an update's seconds are the wall time from one update's end to the next one's, loading included. They run in
turn, several rounds, each of which begins with updates that are not measured.

TRL packs in three ways that run on any device; r1lit keeps sequences apart, as the first two do:
  bfd       rows of --length tokens, one a pass, as many passes as an update needs
  bfd-flat  the same rows end to end in one pass, as one row (what TRL does with a batch of packed rows)
  wrapped   one long text cut every --length tokens: sequences see one another, and are cut
The ratio is r1lit over the faster of the first two. On a CPU that others use too, tokens a second of CPU (of all
threads) tell more than tokens a second of wall time; with one thread an idle machine gives the former. The last line is
JSON.

    python tools/bench_sft.py [--rounds 5] [--updates 6] [--length 512] [--tokens 4096]
    python tools/bench_sft.py --device cuda --model 1.5b --length 32768 --tokens 131072
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import tempfile
import time
from functools import partial

import lightning
import torch
import transformers
import trl
from benching import device_of, fit, in_turn, machine, make_model, precision, silence, wait
from datasets import Dataset

from r1lit.data.demonstrations import Demonstration
from r1lit.data.module import StepBatch
from r1lit.modules.settings import OptimizerSettings, SFTSettings
from r1lit.modules.sft import SFT

WARM_UP = 2
APART = ("bfd", "bfd-flat")
"""TRL's ways of packing in which no sequence sees another."""

WAYS = (*APART, "wrapped")

PASS = "of a pass of r1lit; by default an update's on a GPU, and two rows' on a CPU, whose caches are small"

LARGEST_ID = 600
"""Ids are drawn below it: the tiny model's tokenizer has a few more."""


def demonstrations(tokens: int, longest: int, seed: int) -> list[Demonstration]:
    """So many tokens in demonstrations whose lengths are spread as those of reasoning are: log-normal, most well below
    the longest, a few at it. The first quarter of each is its prompt."""
    rng, made, total = random.Random(seed), [], 0
    while total < tokens:
        length = min(longest, max(16, round(math.exp(rng.gauss(math.log(longest / 4), 0.7)))))
        prompt = length // 4
        ids = tuple(rng.randrange(5, LARGEST_ID) for _ in range(length))
        made.append(Demonstration(ids, (False,) * prompt + (True,) * (length - prompt)))
        total += length
    return made


class Clock:
    """Tokens, seconds and seconds of CPU of each update."""

    def __init__(self, device: torch.device):
        self.device = device
        self.updates: list[tuple[int, float, float]] = []
        self._began, self._cpu_began = time.perf_counter(), time.process_time()

    def update_ended(self, tokens: int) -> None:
        wait(self.device)
        now, cpu = time.perf_counter(), time.process_time()
        self.updates.append((tokens, now - self._began, cpu - self._cpu_began))
        self._began, self._cpu_began = now, cpu

    @property
    def speeds(self) -> tuple[float, float]:
        """Tokens a second, and tokens a second of CPU, over the measured updates."""
        tokens, seconds, cpu = (sum(column) for column in zip(*self.updates[WARM_UP:], strict=True))
        return tokens / seconds, tokens / cpu

    @property
    def tokens_per_update(self) -> float:
        return statistics.fmean(tokens for tokens, *_ in self.updates[WARM_UP:])


def run_r1lit(options: argparse.Namespace, rows: list[Demonstration], seed: int) -> Clock:
    device = torch.device(options.device)
    policy, _ = make_model(options.model, device)
    if options.checkpointing:
        policy.gradient_checkpointing_enable({"use_reentrant": False})
    settings = SFTSettings(batch_size=1, max_tokens=options.length, micro_batch_tokens=options.micro_batch_tokens)
    module = SFT(policy, settings, OptimizerSettings(lr=1e-12, betas=(0.9, 0.999)), options.updates, len(rows))
    batches, batch = [], []
    for row in rows:
        batch.append(row)
        if sum(len(one.ids) for one in batch) >= options.tokens:
            batches.append(StepBatch(len(batches), batch))
            batch = []
    clock = Clock(device)

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer, module, *_) -> None:
            clock.update_ended(int(module.metrics["num_tokens"]))

    fit(module, batches[: WARM_UP + options.updates], device, [Watch()])
    return clock


def labels(row: Demonstration) -> list[int]:
    """As transformers' trainers take them: -100 where the loss counts nothing."""
    return [token if trained else -100 for token, trained in zip(row.ids, row.trained, strict=True)]


def trl_config(options: argparse.Namespace, way: str, folder: str, seed: int) -> trl.SFTConfig:
    """TRL's settings for one of its ways of packing."""
    device, rows_per_update = torch.device(options.device), max(1, options.tokens // options.length)
    at_once = 1 if way == "bfd" else rows_per_update
    return trl.SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=rows_per_update // at_once,
        max_steps=WARM_UP + options.updates,
        max_length=options.length,
        packing=True,
        packing_strategy=way.removesuffix("-flat"),
        learning_rate=1e-12,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=precision(device) == "bf16-mixed",
        use_cpu=device.type == "cpu",
        gradient_checkpointing=options.checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        seed=seed,
    )


def run_trl(options: argparse.Namespace, rows: list[Demonstration], way: str, seed: int) -> Clock:
    device = torch.device(options.device)
    model, tokenizer = make_model(options.model, device)
    clock, seen = Clock(device), []
    with tempfile.TemporaryDirectory() as folder:
        config = trl_config(options, way, folder, seed)
        data = [{"input_ids": list(row.ids), "labels": labels(row)} for row in rows]
        trainer = trl.SFTTrainer(model, config, train_dataset=Dataset.from_list(data), processing_class=tokenizer)
        trainer.remove_callback(transformers.PrinterCallback)
        step = trainer.training_step

        def counted(model, inputs, *arguments, **keywords):
            mask = inputs.get("attention_mask")
            seen.append(inputs["input_ids"].numel() if mask is None else int(mask.sum()))
            return step(model, inputs, *arguments, **keywords)

        class Watch(transformers.TrainerCallback):
            def on_step_end(self, *_, **__) -> None:
                clock.update_ended(sum(seen))
                seen.clear()

        trainer.training_step = counted
        trainer.add_callback(Watch())
        trainer.train()
    return clock


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", default="tiny", help="a model folder, or the shape 1.5b; the embedded tiny model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=6, help="measured ones of a round")
    parser.add_argument("--length", type=int, default=512, help="longest demonstration, and TRL's row")
    parser.add_argument("--tokens", type=int, default=4096, help="of an update")
    parser.add_argument("--micro-batch-tokens", type=int, default=0, help=PASS)
    parser.add_argument("--ways", default=",".join(WAYS), help="of packing that TRL is run with, by comma")
    parser.add_argument("--checkpointing", action=argparse.BooleanOptionalAction, help="recompute activations")
    options = parser.parse_args()
    if not options.micro_batch_tokens:
        options.micro_batch_tokens = options.tokens if options.device == "cuda" else 2 * options.length
    if options.checkpointing is None:
        options.checkpointing = options.device == "cuda"
    return options


def main() -> None:
    options = parse()
    silence()
    device = device_of(options)
    rows = demonstrations(options.tokens * (WARM_UP + options.updates + 2), options.length, seed=7)
    sides = {"r1lit": partial(run_r1lit, options, rows)}
    sides |= {f"trl {way}": partial(run_trl, options, rows, way) for way in options.ways.split(",")}
    clocks: dict[str, list[Clock]] = {name: [] for name in sides}
    for number, name, clock in in_turn(sides, options.rounds):
        clocks[name].append(clock)
        wall, cpu = clock.speeds
        place = f"round {number + 1}/{options.rounds}"
        print(f"{place}  {name:13}{wall:10,.0f} tokens/s {cpu:10,.0f} a CPU second", flush=True)
    report(options, rows, clocks, machine(device))


def report(options: argparse.Namespace, rows: list[Demonstration], clocks: dict[str, list[Clock]], where: dict) -> None:
    """Medians, then one line of JSON."""
    walls, cpus = (
        {name: statistics.median(clock.speeds[kind] for clock in found) for name, found in clocks.items()}
        for kind in (0, 1)
    )
    tokens = {name: statistics.fmean(clock.tokens_per_update for clock in found) for name, found in clocks.items()}
    lengths = [len(row.ids) for row in rows]
    print(f"\n{'':14}{'tokens/s':>10}{'r1lit is':>10}{'a CPU second':>14}{'r1lit is':>10}{'tokens/update':>15}")
    for name in clocks:
        wall, cpu = walls["r1lit"] / walls[name], cpus["r1lit"] / cpus[name]
        print(f"{name:14}{walls[name]:10,.0f}{wall:10.2f}{cpus[name]:14,.0f}{cpu:10.2f}{tokens[name]:15,.0f}")
    print(f"demonstrations of {min(lengths)} to {max(lengths)} tokens, {statistics.fmean(lengths):.0f} on average")
    print(f"{precision(torch.device(options.device))}; {where}")

    def ratio(medians: dict[str, float]) -> float:
        return round(medians["r1lit"] / max(medians[f"trl {way}"] for way in APART if f"trl {way}" in medians), 3)

    print(
        json.dumps(
            {
                "ratio": ratio(walls),
                "ratio_cpu": ratio(cpus),
                "tokens_per_second": {name: round(speed, 1) for name, speed in walls.items()},
                "tokens_per_cpu_second": {name: round(speed, 1) for name, speed in cpus.items()},
                "precision": precision(torch.device(options.device)),
                "length": options.length,
                "micro_batch_tokens": options.micro_batch_tokens,
                "tokens_per_update": {name: round(count) for name, count in tokens.items()},
                "trl": trl.__version__,
                **where,
            }
        )
    )


if __name__ == "__main__":
    main()
