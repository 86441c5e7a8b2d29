#!/usr/bin/env python3
"""Decoding in the training process: r1lit's ways (rollout.decode) beside transformers' own.

Every side draws --length tokens for --prompts x --group rows, whatever they are, from one model, at temperature 1; the
prompts are of --prompt-tokens tokens each. Sides come in turn, several rounds, after a round that is not measured, in
which they compile and warm up (its seconds are printed too). Tokens a second are of all rows together, prompts' own
passes included; a figure is a median. transformers' sides give back no log-probs, r1lit's do.

  eager        rollout.decode=eager: the model as it stands, a cache that grows
  static       rollout.decode=static: fixed shapes, on CUDA recorded as graphs
  compiled     rollout.decode=compiled: these compiled
  generate     transformers' generate
  hf-static    transformers' generate with cache_implementation="static", which compiles on CUDA
  continuous   transformers' continuous batching (generate_batch), its cache as large as the rows need; not under
               --precision mixed, as it decodes in a thread

A side that does not run here is named with its reason. The last line is JSON.

    python tools/bench_decode.py [--rounds 3] [--length 64] [--sides eager,static,compiled]
    python tools/bench_decode.py --device cuda --model 1.5b --prompts 16 --group 16 --length 2048
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from benching import device_of, endless, in_turn, machine, make_model, silence, wait
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel

from r1lit.rollout.transformers_sampler import TransformersSampler
from r1lit.types import Prompt, Sampling

Side = Callable[[int], int]
"""Draws everything once, from a seed; the tokens it drew."""

WARM_UP = -1
PAGE = 256
LARGEST_ID = 600
"""Ids of prompts are drawn below it: the tiny model's tokenizer has a few more."""


def ours(decoding: str, model: PreTrainedModel, tokenizer, prompts: list[list[int]], options) -> Side:
    sampler = endless(TransformersSampler(model, tokenizer, options.max_batch_rows, decoding))
    asked = [Prompt(ids=tuple(ids), raw="") for ids in prompts]

    def draw(seed: int) -> int:
        rollout = sampler.generate(asked, options.group, Sampling(max_tokens=options.length), seed=seed + 1)
        return int(rollout.completion_mask.sum())

    return draw


def theirs(cache: str | None, model: PreTrainedModel, tokenizer, prompts: list[list[int]], options) -> Side:
    ids = torch.tensor(prompts, device=model.device).repeat_interleave(options.group, 0)
    config = _config(options, cache_implementation=cache)

    def draw(seed: int) -> int:
        torch.manual_seed(seed + 1)
        with torch.no_grad():
            drawn = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        return drawn[:, ids.shape[1] :].numel()

    return draw


def continuous(model: PreTrainedModel, tokenizer, prompts: list[list[int]], options) -> Side:
    config = _config(options, num_return_sequences=options.group)
    rows, pages = options.prompts * options.group, -(-(options.prompt_tokens + options.length) // PAGE)
    # By default it fills the memory, which on a CPU is the machine's.
    room = ContinuousBatchingConfig(
        page_size=PAGE, num_blocks=rows * pages, max_batch_tokens=max(rows, 256), max_requests_per_batch=rows
    )

    def draw(seed: int) -> int:
        torch.manual_seed(seed + 1)
        drawn = model.generate_batch(prompts, generation_config=config, continuous_batching_config=room)
        if wrong := [part.error for part in drawn.values() if part.error]:
            raise RuntimeError(wrong[0])
        return sum(len(part.generated_tokens) for part in drawn.values())

    return draw


def _config(options, **more) -> GenerationConfig:
    ends = {"eos_token_id": None, "pad_token_id": 0, "min_new_tokens": None}
    return GenerationConfig(max_new_tokens=options.length, do_sample=True, top_k=0, **ends, **more)


SIDES: dict[str, Callable[..., Side]] = {
    **{decoding: partial(ours, decoding) for decoding in ("eager", "static", "compiled")},
    "generate": partial(theirs, None),
    "hf-static": partial(theirs, "static"),
    "continuous": continuous,
}


def timed(side: Side, model: PreTrainedModel, precision: str, number: int) -> float | str:
    """Tokens a second; why there are none, where the side does not run."""
    wait(model.device)
    start = time.perf_counter()
    try:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "mixed"):
            tokens = side(number)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    wait(model.device)
    return tokens / (time.perf_counter() - start)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", default="tiny", help="a model folder, or the shape 1.5b; the embedded tiny model")
    parser.add_argument("--precision", choices=["float32", "bf16", "mixed"], help="bf16 on a GPU, else float32")
    parser.add_argument("--rounds", type=int, default=3)
    for name, size in (("prompts", 8), ("group", 8), ("length", 64), ("prompt-tokens", 32), ("max-batch-rows", 256)):
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--sides", default=",".join(SIDES), help="by comma")
    options = parser.parse_args()
    options.precision = options.precision or ("bf16" if options.device == "cuda" else "float32")
    if min(options.prompts, options.group, options.length, options.prompt_tokens, options.rounds) < 1:
        raise SystemExit("--prompts, --group, --length, --prompt-tokens and --rounds are 1 or more")
    if wrong := set(options.sides.split(",")) - set(SIDES):
        raise SystemExit(f"--sides names {', '.join(sorted(wrong))}, which is none of {', '.join(SIDES)}")
    return options


def main() -> None:
    options = parse()
    silence()
    device = device_of(options)
    model, tokenizer = make_model(options.model, device)
    model.eval().to(torch.bfloat16 if options.precision == "bf16" else torch.float32)
    torch.manual_seed(0)
    prompts = torch.randint(5, LARGEST_ID, (options.prompts, options.prompt_tokens)).tolist()
    rates: dict[str, list[float]] = {}
    failed: dict[str, str] = {}
    chosen = options.sides.split(",")
    if options.precision == "mixed" and "continuous" in chosen:
        chosen.remove("continuous")
        failed["continuous"] = "it computes in the dtype of the weights"
    sides: dict[str, Callable[[int], float | str]] = {}
    for name in chosen:
        sides[name] = partial(timed, SIDES[name](model, tokenizer, prompts, options), model, options.precision)
        start = time.perf_counter()
        if isinstance(found := sides[name](WARM_UP), str):
            failed[name] = found
            del sides[name]
        print(f"warm-up  {name:>10}  {time.perf_counter() - start:8.1f} s  {failed.get(name, '')}", flush=True)
    if not sides:
        raise SystemExit(f"no side runs here: {failed}")
    for number, name, found in in_turn(sides, options.rounds):
        if isinstance(found, str):
            failed[name] = found
        else:
            rates.setdefault(name, []).append(found)
        print(f"round {number + 1}/{options.rounds}  {name:>10}  {found}", flush=True)
    report(options, rates, failed, machine(device))


def report(options: argparse.Namespace, rates: dict[str, list[float]], failed: dict[str, str], where: dict) -> None:
    """The table, then one line of JSON."""
    medians = {name: statistics.median(found) for name, found in rates.items()}
    base = medians.get("eager")
    rows = options.prompts * options.group
    print(f"\n{rows} rows of {options.length} tokens, {options.model}, {options.precision}; medians; {where}")
    for name, rate in sorted(medians.items(), key=lambda item: -item[1]):
        ratio = f"{rate / base:6.2f} x eager" if base else ""
        print(f"{name:>10}  {rate:12,.0f} tokens/s  {rows / rate * 1e3:8.2f} ms a step  {ratio}")
    for name, reason in failed.items():
        print(f"{name:>10}  did not run: {reason}")
    sizes = {name: getattr(options, name) for name in ("model", "precision", "prompts", "group", "length")}
    rounded = {name: round(rate, 1) for name, rate in medians.items()}
    print(json.dumps({"tokens_per_second": rounded, "failed": failed, **sizes, **where}))


if __name__ == "__main__":
    main()
