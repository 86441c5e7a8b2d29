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
The ratio is r1lit over the faster of the first two. The last line is JSON.

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
    """Tokens and seconds of each update."""

    def __init__(self, device: torch.device):
        self.device = device
        self.updates: list[tuple[int, float]] = []
        self._began = time.perf_counter()

    def update_ended(self, tokens: int) -> None:
        wait(self.device)
        now = time.perf_counter()
        self.updates.append((tokens, now - self._began))
        self._began = now

    def tokens_per_second(self) -> float:
        """Over the measured updates."""
        measured = self.updates[WARM_UP:]
        return sum(tokens for tokens, _ in measured) / sum(seconds for _, seconds in measured)


def run_r1lit(options: argparse.Namespace, rows: list[Demonstration], seed: int) -> Clock:
    device = torch.device(options.device)
    policy, _ = make_model(options.model, device)
    if options.checkpointing:
        policy.gradient_checkpointing_enable({"use_reentrant": False})
    settings = SFTSettings(
        batch_size=1, max_tokens=options.length, micro_batch_tokens=options.micro_batch_tokens or options.tokens
    )
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


def run_trl(options: argparse.Namespace, rows: list[Demonstration], way: str, seed: int) -> Clock:
    device = torch.device(options.device)
    model, tokenizer = make_model(options.model, device)
    rows_per_update = max(1, options.tokens // options.length)
    at_once = 1 if way == "bfd" else rows_per_update
    clock, seen = Clock(device), []
    with tempfile.TemporaryDirectory() as folder:
        config = trl.SFTConfig(
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
    parser.add_argument("--micro-batch-tokens", type=int, default=0, help="of a pass of r1lit; 0: an update's")
    parser.add_argument("--checkpointing", action=argparse.BooleanOptionalAction, help="recompute activations")
    options = parser.parse_args()
    if options.checkpointing is None:
        options.checkpointing = options.device == "cuda"
    return options


def main() -> None:
    options = parse()
    silence()
    device = device_of(options)
    rows = demonstrations(options.tokens * (WARM_UP + options.updates + 2), options.length, seed=7)
    sides = {"r1lit": partial(run_r1lit, options, rows)}
    sides |= {f"trl {way}": partial(run_trl, options, rows, way) for way in (*APART, "wrapped")}
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    tokens: dict[str, float] = {}
    for number, name, clock in in_turn(sides, options.rounds):
        speeds[name].append(clock.tokens_per_second())
        tokens[name] = statistics.fmean(count for count, _ in clock.updates[WARM_UP:])
        print(f"round {number + 1}/{options.rounds}  {name:13}{speeds[name][-1]:12,.0f} tokens/s", flush=True)
    report(options, rows, speeds, tokens, machine(device))


def report(options, rows, speeds: dict[str, list[float]], tokens: dict[str, float], where: dict) -> None:
    """Medians, then one line of JSON."""
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    lengths = [len(row.ids) for row in rows]
    print(f"\n{'':14}{'tokens/s':>12}{'a update':>10}{'r1lit is':>10}")
    for name, speed in medians.items():
        print(f"{name:14}{speed:12,.0f}{tokens[name]:10,.0f}{medians['r1lit'] / speed:10.2f}")
    print(f"demonstrations of {min(lengths)} to {max(lengths)} tokens, {statistics.fmean(lengths):.0f} on average")
    print(f"{precision(torch.device(options.device))}; {where}")
    best = max(medians[f"trl {way}"] for way in APART)
    figures = {name: round(speed, 1) for name, speed in medians.items()}
    ratios = {name: round(medians["r1lit"] / speed, 3) for name, speed in medians.items() if name != "r1lit"}
    print(
        json.dumps(
            {
                "ratio": round(medians["r1lit"] / best, 3),
                "tokens_per_second": figures,
                "ratios": ratios,
                "precision": precision(torch.device(options.device)),
                "length": options.length,
                "tokens_per_update": {name: round(count) for name, count in tokens.items()},
                "trl": trl.__version__,
                **where,
            }
        )
    )


if __name__ == "__main__":
    main()
