"""What the benches share: models of a shape, quiet libraries, sides in turn, and how busy the machine was."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import datasets
import lightning
import torch
import transformers
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from r1lit.distributed.launch import launched
from r1lit.distributed.strategies import Started, strategy_of
from r1lit.models.attention import attention_at_load, settle_attention
from r1lit.models.loading import ModelSettings, load_policy
from r1lit.rollout.transformers_sampler import TransformersSampler

Taken = TypeVar("Taken")

SHAPES: dict[str, dict[str, Any]] = {
    # Qwen2.5-1.5B's config.
    "1.5b": {
        "model_type": "qwen2",
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "max_position_embeddings": 131072,
        "rope_theta": 1e6,
        "tie_word_embeddings": True,
    },
}
"""Models by shape, whose weights are drawn at random."""


def device_of(options: argparse.Namespace) -> torch.device:
    """The device that ``--device`` names.

    Raises:
        SystemExit: where it is not there.
    """
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda, but torch sees no GPU; leave it out to measure on the CPU")
    return torch.device(options.device)


def make_model(name: str, device: torch.device) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model of a shape with random weights (and the tiny model's tokenizer), or one that is loaded; float32 weights,
    which are the master weights where ``precision`` is mixed."""
    if name not in SHAPES:
        model, tokenizer = load_policy(ModelSettings(path=name))
        return settled(model.to(device)), tokenizer
    _, tokenizer = load_policy(ModelSettings())
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = AutoConfig.for_model(**SHAPES[name], **ends)
    torch.manual_seed(0)
    with torch.device(device):
        attention = attention_at_load("auto", config)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention)
    return settled(model), tokenizer


def settled(model: PreTrainedModel) -> PreTrainedModel:
    """The model with the attention that a run would take."""
    kind = model.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
        settle_attention(model, "auto", model.device)
    return model


def endless(sampler: TransformersSampler) -> TransformersSampler:
    """The sampler, drawing up to the limit whatever it draws: no token's id is -1."""
    sampler.stops = (-1,)
    return sampler


def precision(device: torch.device) -> str:
    """Lightning's name of the arithmetic that both sides train in."""
    return "bf16-mixed" if device.type == "cuda" else "32-true"


def fit(
    module: lightning.LightningModule,
    batches: Sequence[Any],
    device: torch.device,
    callbacks: Sequence[lightning.Callback],
    strategy: str = "single",
) -> None:
    """Train a module on batches, with nothing else around it, in the processes that were started."""
    launch = launched()
    trainer = lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=launch.local_size,
        num_nodes=launch.size // launch.local_size,
        strategy=strategy_of(strategy, launch),
        plugins=[Started(launch)] if launch.size > 1 or strategy == "fsdp" else None,
        use_distributed_sampler=False,
        precision=precision(device),
        max_epochs=1,
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch))


def in_turn(sides: dict[str, Callable[[int], Taken]], rounds: int) -> Iterator[tuple[int, str, Taken]]:
    """Each side in each round, the first one another in every round: what else the machine does reaches all alike."""
    names = list(sides)
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            yield number, name, sides[name](number)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def wait(device: torch.device) -> None:
    """Let the device finish what was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def silence() -> None:
    """No warnings, no progress bars, no tips."""
    warnings.filterwarnings("ignore")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    for name in ("lightning.pytorch", "transformers", "trl", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)


def machine(device: torch.device) -> dict[str, Any]:
    """What a figure depends on beside the code: to stand in the report."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "kind": device.type,
        "device": name,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
