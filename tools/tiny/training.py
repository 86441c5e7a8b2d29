"""Train a tiny base model from nothing: plain next-token prediction on the corpus's completions."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from r1lit.text.templates import render

BATCH = 64
WARMUP = 100
MUON_RATE, ADAM_RATE = 0.02, 3e-3
# A step's loss is divided by this and not by its own tokens, or short answers would count for more than long ones.
LOSS_TOKENS = BATCH * 18
REPORT_EVERY = 100
IGNORED = -100


@dataclass(frozen=True)
class Size:
    """The widths of a model's layers and of their feed-forward parts, and how many steps it is trained for."""

    hidden: int
    ffn: int
    steps: int


def new_model(tokenizer: PreTrainedTokenizerFast, max_length: int, size: Size) -> LlamaForCausalLM:
    """An untrained Llama of two layers."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=size.hidden,
            intermediate_size=size.ffn,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=max_length,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def train(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, samples: Iterator[tuple[str, str]], steps: int
) -> None:
    """Fit the model in place to ``steps`` batches of (question, completion) pairs, printing the loss now and then."""
    optimizers = _optimizers(model)
    schedules = [torch.optim.lr_scheduler.LambdaLR(one, lambda step: _rate(step, steps)) for one in optimizers]
    started, total = time.perf_counter(), 0.0
    for step in range(1, steps + 1):
        rows = _encode(tokenizer, list(islice(samples, BATCH)))
        for part in (rows[: BATCH // 2], rows[BATCH // 2 :]):
            loss = _loss(model, part, tokenizer.pad_token_id)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
        if step % REPORT_EVERY == 0:
            seconds = time.perf_counter() - started
            print(f"step {step}/{steps}  loss {total / REPORT_EVERY:.4f}  {seconds:.0f} s", flush=True)
            total = 0.0


def _optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding and the scales.

    At 400 steps Muon stood at a loss of 0.31 where AdamW alone stood at 0.39.
    """
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    others = [model.model.embed_tokens.weight, *(weight for weight in model.parameters() if weight.ndim == 1)]
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=0.01),
        torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _rate(step: int, steps: int) -> float:
    """A linear climb, then half a cosine down to nothing, as a share of each optimizer's peak."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / max(1, steps - WARMUP)))


def _encode(tokenizer: PreTrainedTokenizerFast, pairs: list[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    """The token ids of each (question, completion) pair, shortest first so that halves carry little padding."""
    prompts = tokenizer([render("r1_zero", question) for question, _ in pairs]).input_ids
    completions = tokenizer([completion + tokenizer.eos_token for _, completion in pairs]).input_ids
    return sorted(zip(prompts, completions, strict=True), key=lambda row: len(row[0]) + len(row[1]))


def _loss(model: LlamaForCausalLM, rows: list[tuple[list[int], list[int]]], pad: int) -> Tensor:
    """What these rows add to the step's loss: minus the log-probability of their completions, over the constant."""
    length = max(len(prompt) + len(completion) for prompt, completion in rows)
    input_ids, labels = torch.full((len(rows), length), pad), torch.full((len(rows), length), IGNORED)
    for row, (prompt, completion) in enumerate(rows):
        end = len(prompt) + len(completion)
        input_ids[row, :end] = torch.tensor(prompt + completion)
        labels[row, len(prompt) : end] = torch.tensor(completion)
    # Padding stands on the right of a causal model, so no real token sees it and no mask is needed.
    logits = model(input_ids=input_ids).logits[:, :-1].flatten(0, 1)
    return cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum") / LOSS_TOKENS
