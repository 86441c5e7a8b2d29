#!/usr/bin/env python3
"""A GRPO step of r1lit beside one of TRL's GRPOTrainer: same model, prompts, rewards, group size, lengths, precision.

Both sides sample with transformers in float32, at temperature 1, from the same weights (the learning rate is next to
0, so that both keep sampling completions of the same lengths), score with the same two reward functions, take the KL
to a reference and make the same number of updates a rollout. They run in turn, several rounds; a round's first step is
warm-up. Torch's threads are left at their defaults; run it on an idle machine. The last line is JSON:
{"ratio": r1lit's median step over TRL's, ...}.

    python tools/bench_grpo.py [--rounds 5] [--steps 4] [--prompts 16] [--group 16] [--updates 2] [--max-tokens 64]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from functools import partial

import lightning
import torch
import transformers
import trl
from datasets import Dataset
from torch.utils.data import DataLoader

from r1lit.data.arithmetic import generate
from r1lit.data.module import StepBatch
from r1lit.models.loading import ModelSettings, load_policy
from r1lit.modules.grpo import GRPO
from r1lit.modules.settings import AlgorithmSettings, OptimizerSettings
from r1lit.rewards.accuracy import accuracy
from r1lit.rewards.format import format as format_reward
from r1lit.rewards.pool import RewardPool
from r1lit.rewards.spec import RewardSettings
from r1lit.rollout.transformers_sampler import TransformersSampler
from r1lit.text.encoding import encode_prompt
from r1lit.text.templates import render
from r1lit.types import Prompt, Sampling

PHASES = ("sample", "score", "logprobs", "update", "other")
KL, TEMPLATE = 0.001, "r1_zero"


class Phases(dict):
    """Seconds by phase of one step."""

    @property
    def step(self) -> float:
        return sum(self.values())


def run_r1lit(options: argparse.Namespace, rows: list[dict], pool: RewardPool, seed: int) -> list[Phases]:
    """One Lightning fit; a step is a rollout with its updates."""
    policy, tokenizer = load_policy(ModelSettings(path=options.model))
    prompts = []
    for row in rows:
        ids, prefill = encode_prompt(tokenizer, row["prompt"], TEMPLATE)
        prompts.append(Prompt(ids=ids, raw=row["prompt"], columns=row, prefill=prefill))
    module = GRPO(
        policy=policy,
        sampler=TransformersSampler(policy, tokenizer),
        rewards=pool,
        algorithm=AlgorithmSettings(
            steps=options.steps + 1,
            prompts_per_step=options.prompts,
            group_size=options.group,
            minibatches=options.updates,
            micro_batch_tokens=options.micro_batch_tokens,
            clip_low=10,
            clip_high=10,
            kl_coef=KL,
        ),
        optimizer=OptimizerSettings(lr=1e-12),
        sampling=Sampling(max_tokens=options.max_tokens),
        seed=seed,
    )
    clock = Clock()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        callbacks=[clock],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches = [
        StepBatch(step, prompts[step * options.prompts : (step + 1) * options.prompts])
        for step in range(options.steps + 1)
    ]
    trainer.fit(module, DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch))
    return clock.steps[1:]


class Clock(lightning.Callback):
    """Reads the phases that the module timed; what is left of the step's wall time is "other"."""

    def __init__(self) -> None:
        self.steps: list[Phases] = []
        self.lengths: list[float] = []

    def on_train_batch_start(self, *_) -> None:
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer, module, *_) -> None:
        total = time.perf_counter() - self.began
        phases = Phases({name: module.metrics.get(f"time/{name}", 0.0) for name in PHASES})
        phases["other"] += total - phases.step
        self.steps.append(phases)
        LENGTHS["r1lit"].append(module.metrics["completions/mean_length"])


LENGTHS: defaultdict[str, list[float]] = defaultdict(list)


def run_trl(options: argparse.Namespace, rows: list[dict], seed: int) -> list[Phases]:
    """One TRL run; a step is a generation with its updates, which TRL counts as that many steps."""
    rows_per_update = options.prompts * options.group // options.updates
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = load_policy(ModelSettings(path=options.model))
        config = trl.GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=rows_per_update // options.trl_micro_batches,
            gradient_accumulation_steps=options.trl_micro_batches,
            generation_batch_size=options.prompts * options.group,
            num_generations=options.group,
            max_completion_length=options.max_tokens,
            max_steps=(options.steps + 1) * options.updates,
            learning_rate=1e-12,
            beta=KL,
            epsilon=10,
            use_bias_correction_kl=False,
            loss_type="grpo",
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_steps=options.updates,
            disable_tqdm=True,
            shuffle_dataset=False,
            seed=seed,
            gradient_checkpointing=False,
        )
        data = Dataset.from_list([{**row, "prompt": render(TEMPLATE, row["prompt"])} for row in rows])
        trainer = trl.GRPOTrainer(
            model=model,
            processing_class=tokenizer,
            reward_funcs=[accuracy_for_trl, format_for_trl],
            args=config,
            train_dataset=data,
        )
        trainer.remove_callback(transformers.PrinterCallback)
        stopwatch = Stopwatch(trainer, options.updates * config.gradient_accumulation_steps)
        trainer.train()
        LENGTHS["trl"] += [log["completions/mean_length"] for log in trainer.state.log_history if "reward" in log]
    return stopwatch.steps[1:]


def accuracy_for_trl(completions, answer, task, **_) -> list[float | None]:
    """The accuracy reward, taking and ignoring what else TRL passes."""
    return accuracy(completions=completions, answer=answer, task=task)


def format_for_trl(completions, **_) -> list[float]:
    """The format reward, likewise."""
    return format_reward(completions)


class Stopwatch:
    """Wraps the methods of TRL's trainer that make up its phases."""

    def __init__(self, trainer: trl.GRPOTrainer, calls_per_step: int):
        self.steps: list[Phases] = []
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._calls, self._calls_per_step, self._began = 0, calls_per_step, 0.0
        for name in ("_generate", "_calculate_rewards", "_generate_and_score_completions"):
            setattr(trainer, name, partial(self._timed, name, getattr(trainer, name)))
        trainer.training_step = partial(self._training_step, trainer.training_step)
        trainer.add_callback(StepEnd(self))

    def _timed(self, name: str, method: Callable, *args, **kwargs):
        began = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            self._seconds[name] += time.perf_counter() - began

    def _training_step(self, method: Callable, *args, **kwargs):
        if self._calls % self._calls_per_step == 0:
            self._began = time.perf_counter()
        self._calls += 1
        return self._timed("training_step", method, *args, **kwargs)

    def end_of_update(self) -> None:
        if self._calls % self._calls_per_step:
            return
        total, seconds = time.perf_counter() - self._began, self._seconds
        whole = seconds["_generate_and_score_completions"]
        phases = Phases(
            sample=seconds["_generate"],
            score=seconds["_calculate_rewards"],
            logprobs=whole - seconds["_generate"] - seconds["_calculate_rewards"],
            update=seconds["training_step"] - whole,
        )
        phases["other"] = total - phases.step
        self.steps.append(phases)
        self._seconds.clear()


class StepEnd(transformers.TrainerCallback):
    """Tells the stopwatch when the optimiser has stepped."""

    def __init__(self, stopwatch: Stopwatch):
        self.stopwatch = stopwatch

    def on_step_end(self, *_, **__) -> None:
        self.stopwatch.end_of_update()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("rounds", 5),
        ("steps", 4),
        ("prompts", 16),
        ("group", 16),
        ("updates", 2),
        ("max-tokens", 64),
        ("micro-batch-tokens", 4096),
        ("trl-micro-batches", 1),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--model", default="tiny", help="a model folder; the embedded tiny model by default")
    return parser.parse_args()


def main() -> None:
    options = parse()
    warnings.filterwarnings("ignore")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    transformers.utils.logging.disable_progress_bar()
    for name in ("lightning.pytorch", "transformers", "trl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    rows = list(generate(options.prompts * (options.steps + 1), seed=7))
    rewards = {
        "accuracy": RewardSettings(_target_="r1lit.rewards.accuracy.accuracy", rowwise=True),
        "format": RewardSettings(_target_="r1lit.rewards.format.format", rowwise=True),
    }
    taken: dict[str, list[Phases]] = {"r1lit": [], "trl": []}
    with RewardPool(rewards) as pool:
        sides = {"r1lit": partial(run_r1lit, options, rows, pool), "trl": partial(run_trl, options, rows)}
        for number in range(options.rounds):
            for name, side in sides.items():
                steps = side(seed=number)
                taken[name] += steps
                median = statistics.median(step.step for step in steps)
                print(f"round {number + 1}/{options.rounds}  {name:5}  {median:.3f} s a step", flush=True)
    report(taken)


def report(taken: dict[str, list[Phases]]) -> None:
    """Medians by phase, then one line of JSON."""
    medians = {
        name: {phase: statistics.median(step[phase] for step in steps) for phase in PHASES}
        | {"step": statistics.median(step.step for step in steps)}
        for name, steps in taken.items()
    }
    print(f"\n{'seconds':10}" + "".join(f"{name:>10}" for name in (*medians, "ratio")))
    for phase in (*PHASES, "step"):
        ours, theirs = medians["r1lit"][phase], medians["trl"][phase]
        share = f"{ours / theirs:10.2f}" if theirs > 1e-4 else f"{'':10}"
        print(f"{phase:10}{ours:10.3f}{theirs:10.3f}{share}")
    lengths = {name: round(statistics.fmean(values), 1) for name, values in LENGTHS.items()}
    print(f"mean completion length in tokens: {lengths}; threads: {torch.get_num_threads()}")
    ratio = medians["r1lit"]["step"] / medians["trl"]["step"]
    figures = {name: {k: round(v, 4) for k, v in phases.items()} for name, phases in medians.items()}
    print(json.dumps({"ratio": round(ratio, 3), **figures, "mean_length": lengths, "trl_version": trl.__version__}))


if __name__ == "__main__":
    main()
