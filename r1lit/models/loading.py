"""Load a causal LM with its tokenizer, clone it, copy its weights, and save it for any Hugging Face tool."""

from __future__ import annotations

import copy
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from uuid import uuid4

import torch
from pydantic import model_validator
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from r1lit.models.adapters import adapt, adapter_folder, base_problems, save_weights
from r1lit.models.attention import AttentionName, attention_at_load
from r1lit.models.files import TINY, load_part, locate
from r1lit.models.lora import LoraSettings
from r1lit.models.memory import Checkpointing, prepare_layers
from r1lit.models.packing import Packing
from r1lit.models.quantization import quantization_problems, quantized
from r1lit.models.rope import RopeScaling, stretch_positions
from r1lit.settings import JOINT, Settings

log = logging.getLogger(__name__)


class ModelSettings(Settings):
    """Which model is trained, and how it is held.

    Attributes:
        path: a local folder, a name on the Hugging Face hub, or an embedded base model: ``tiny``, or the smaller
            ``tiny-student``. The folder may hold PEFT's adapters: they are added to the weights of their base.
        dtype: of the master weights; ``auto`` is what the files hold. Adapters are float32 whatever their base is.
        attention: ``auto`` takes, on CUDA in half precision, flash-attention where it is installed, else torch's kernel
            for sequences of any length (``varlen``); elsewhere sdpa where the architecture has it, else eager.
        packing: of the sequences that a policy is trained on: ``packed`` end to end, none seeing another; ``padded``,
            one a row; ``auto`` packs where the model keeps sequences apart.
        activation_checkpointing: what is computed again in the backward pass rather than kept: ``none``; ``full``,
            each decoder layer; ``selective``, of each layer all but its products with weights and its attention.
        rope_scaling: stretch the rotary positions to a longer context, which the exported config then says too.
        compile: compile each decoder layer for training by torch.compile; minutes at first, faster steps after.
        lora: train low-rank adapters in place of the weights.
        quantization: ``nf4`` holds the frozen weights under the adapters in 4 bits.
    """

    path: str = TINY
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    attention: AttentionName = "auto"
    packing: Packing = "auto"
    activation_checkpointing: Checkpointing = "none"
    compile: bool = False
    rope_scaling: RopeScaling | None = None
    lora: LoraSettings = LoraSettings()
    quantization: Literal["nf4"] | None = None

    @model_validator(mode="after")
    def _adapters_have_a_base(self) -> ModelSettings:
        found = [
            *quantization_problems(self.quantization, self.lora.rank),
            *base_problems(self.path, self.quantization, self.lora),
        ]
        if found:
            raise ValueError(JOINT.join(found))
        return self


def load_policy(settings: ModelSettings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model with dropout off, and a tokenizer with a padding token.

    Raises:
        FileNotFoundError: for a folder that is missing, or that holds no config or no weights.
        ValueError: for pickled weights, weights that do not cover the model, models that are no causal LM, a tokenizer
            that does not fit the model, or an attention that the architecture has not.
    """
    path = locate(settings.path)
    config = load_part("config", settings.path, AutoConfig, path)
    require_causal(config, settings.path)
    if settings.rope_scaling:
        stretch_positions(config, settings.rope_scaling, settings.path)
    model, report = load_part(
        "weights",
        settings.path,
        AutoModelForCausalLM,
        path,
        config=config,
        dtype=settings.dtype,
        attn_implementation=attention_at_load(settings.attention, config),
        use_safetensors=True,
        output_loading_info=True,
        **quantized(settings.quantization, settings.dtype, config),
    )
    require_complete(report, settings.path)
    tokenizer = load_tokenizer(settings)
    _fit_tokenizer(model, tokenizer, settings.path)
    disable_dropout(model)
    model = adapt(model, settings.path, settings.lora)
    prepare_layers(model, settings.activation_checkpointing, settings.compile)
    return model, tokenizer


def load_tokenizer(settings: ModelSettings) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer, and nothing else of it.

    Raises:
        FileNotFoundError: for a folder that is missing, or that holds no config or no weights.
        ValueError: for pickled weights, or a tokenizer that cannot be loaded.
    """
    path, folder = locate(settings.path), adapter_folder(settings.path)
    own = folder is not None and (folder / "tokenizer_config.json").is_file()
    return load_part("tokenizer", settings.path, AutoTokenizer, str(folder) if own else path)


def stop_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The token ids that end a completion: the generation config's, then the tokenizer's.

    Raises:
        ValueError: where neither names one.
    """
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    named = named if isinstance(named, list | tuple) else [named]
    ids = tuple(dict.fromkeys(id for id in [*named, tokenizer.eos_token_id] if id is not None))
    if not ids:
        raise ValueError(
            "neither the generation config nor the tokenizer has an eos token, but something must end a completion; "
            "set eos_token in the tokenizer's config"
        )
    return ids


def clone_frozen(model: PreTrainedModel) -> PreTrainedModel:
    """A copy that shares nothing with the model, in eval mode and without gradients: the reference."""
    clone = copy.deepcopy(model).eval().requires_grad_(False)
    clone.zero_grad(set_to_none=True)
    return clone


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Overwrite the target's weights, in place, with the source's.

    Raises:
        RuntimeError: where their names or shapes differ.
    """
    target.load_state_dict(source.state_dict())


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | os.PathLike,
    merge: bool = True,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a Hugging Face model directory: safetensors, configs, tokenizer and chat template.

    Adapters are added to the weights; without ``merge`` they are written alone, in PEFT's format. The folder is
    complete or not there at all; one that exists already is replaced. ``weights`` are a sharded model's.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = (folder.with_name(f".{folder.name}.{kind}-{uuid4().hex[:8]}") for kind in ("new", "old"))
    try:
        save_weights(model, fresh, merge, weights)
        tokenizer.save_pretrained(fresh)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def require_causal(config, name: str) -> None:
    """Refuse a model that does not write text from left to right.

    Raises:
        ValueError: saying what it is.
    """
    kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    known = {item.__name__ for item in (kind if isinstance(kind, tuple) else (kind,)) if item is not None}
    held = set(config.architectures or known)
    if config.is_encoder_decoder or not known & held:
        raise ValueError(
            f"model.path={name} holds {' or '.join(sorted(held)) or config.model_type}, but a policy writes text from "
            f"left to right; give a causal LM{f' ({min(known)})' if known else ''}"
        )


def require_complete(report: dict, name: str) -> None:
    """Refuse a folder whose weights are not all of the model's.

    Raises:
        ValueError: naming some of those that are missing or of another shape.
    """
    missing, odd = sorted(report["missing_keys"]), sorted(str(key) for key in report["mismatched_keys"])
    if missing or odd:
        raise ValueError(
            f"model.path={name}: {len(missing)} tensors are missing and {len(odd)} have another shape "
            f"({', '.join([*missing, *odd][:3])}), and would start at random; give a folder with all weights"
        )
    if report["unexpected_keys"]:
        log.warning("%s: %d tensors have no place in the model", name, len(report["unexpected_keys"]))


def require_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuse a tokenizer that makes ids which the model does not embed.

    Raises:
        ValueError: naming both.
    """
    largest, rows = max(tokenizer.get_vocab().values()), model.get_input_embeddings().weight.shape[0]
    if largest >= rows:
        raise ValueError(
            f"model.path={name}: the tokenizer's largest id is {largest}, but the model embeds {rows} tokens; "
            "use the tokenizer the model was trained with, or resize the embeddings and save the model again"
        )


def _fit_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    require_vocabulary(model, tokenizer, name)
    stops = stop_ids(model, tokenizer)
    if tokenizer.pad_token_id is None:
        # An added padding token would need a row of the embeddings; padding is masked out, so any token serves.
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(stops[-1])
    # What ends a completion here ends it in every other tool that loads the exported folder.
    model.generation_config.eos_token_id = list(stops) if len(stops) > 1 else stops[0]
    model.generation_config.pad_token_id = tokenizer.pad_token_id


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout to 0: a policy that samples and trains under different masks is not on-policy.

    Log-probabilities under dropout would also differ between two passes over the same tokens.
    """
    holders = [model.config, *model.modules()]
    found = 0
    for holder in holders:
        names = [key for key, value in vars(holder).items() if isinstance(value, float) and value > 0 and _drops(key)]
        names += ["p"] if isinstance(holder, nn.Dropout) and holder.p > 0 else []
        found += len(names)
        for key in names:
            setattr(holder, key, 0.0)
    if found:
        log.warning("dropout switched off in %d places: a policy is trained as it samples", found)


def _drops(key: str) -> bool:
    return "dropout" in key or key.endswith(("pdrop", "drop_rate"))
