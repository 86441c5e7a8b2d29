"""Adapters around a model's files: a folder of them given as a model, and what is written of a model that has some."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from r1lit.models.lora import LoraSettings, adapted, attach, save_merged
from r1lit.models.quantization import keep_one_arithmetic

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""What PEFT calls its files."""


def adapter_folder(name: str) -> Path | None:
    """The folder, where the name is that of one that holds adapters."""
    folder = Path(name).expanduser()
    return folder if (folder / CONFIG).is_file() else None


def base_of(folder: Path) -> str:
    """The name of the model that the adapters of a folder belong to.

    Raises:
        FileNotFoundError: for a folder without safetensors.
        ValueError: for adapters that are no LoRA, name no base, name other adapters, or cannot be read without PEFT.
    """
    config = json.loads((folder / CONFIG).read_text())
    kind, base = config.get("peft_type"), config.get("base_model_name_or_path")
    if kind != "LORA":
        raise ValueError(f"model.path={folder} holds adapters of the kind {kind}, but only LORA is known here")
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(
            f"model.path={folder} has no {WEIGHTS}; adapters are loaded from safetensors alone: save them again with "
            "PEFT's save_pretrained"
        )
    if not base:
        raise ValueError(f"model.path={folder}: its {CONFIG} names no base_model_name_or_path; put the base there")
    if adapter_folder(base):
        raise ValueError(
            f"model.path={folder} holds adapters of {base}, which holds adapters itself; merge those first: r1lit "
            "stage=export resume=ITS_RUN model.lora.merge=true"
        )
    if find_spec("peft") is None:
        raise ValueError(
            f"model.path={folder} holds adapters, which need PEFT to be loaded, and it is not installed; pip install "
            "'r1lit[lora]'"
        )
    return base


def base_problems(path: str, quantization: str | None, lora: LoraSettings) -> Iterator[str]:
    """What speaks against a folder of adapters as the base of what is asked for."""
    if not adapter_folder(path):
        return
    remedy = "give a whole model: r1lit stage=export resume=ITS_RUN model.lora.merge=true writes one"
    if lora.rank and not lora.merge:
        yield (
            f"model.lora.merge=false, but model.path={path} holds adapters, and further ones would have no base on the "
            f"disk; {remedy}, or set model.lora.merge=true"
        )
    if quantization:
        yield (
            f"model.quantization={quantization}, but model.path={path} holds adapters, which are not added to 4-bit "
            f"weights; {remedy}"
        )


def adapt(model: PreTrainedModel, path: str, lora: LoraSettings, heads: Sequence[str] = ()) -> PreTrainedModel:
    """The loaded model with the adapters of its folder in its weights, and those that are to be trained beside them.

    Args:
        model: with the weights of its folder's base.
        path: that it was loaded by.
        lora: what is trained.
        heads: modules that are trained as a whole.

    Raises:
        ValueError: for adapters that do not fit the model.
    """
    if folder := adapter_folder(path):
        model = add_to_weights(model, folder)
    keep_one_arithmetic(model)
    attach(model, lora, heads)
    return model


def add_to_weights(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The model with a folder's adapters added to its weights, for good.

    Raises:
        ValueError: for adapters that are not the model's.
    """
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict

    config = PeftConfig.from_pretrained(str(folder))
    # A policy's adapters may be for a reward model's backbone.
    config.task_type = None
    try:
        holder = PeftModel.from_pretrained(model, str(folder), config=config)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"model.path={folder}: its adapters do not fit {type(model).__name__}: {error}") from error
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        odd = set(file.keys()) ^ set(get_peft_model_state_dict(holder))
    if odd:
        raise ValueError(
            f"model.path={folder}: {len(odd)} tensors of its adapters have no place in the model or are missing "
            f"({', '.join(sorted(odd)[:3])}); give the folder that PEFT wrote, and the base that it was trained on"
        )
    # PEFT has frozen it.
    return holder.merge_and_unload(safe_merge=True).requires_grad_(True)


def save_weights(
    model: PreTrainedModel, folder: Path, merge: bool, weights: Mapping[str, Tensor] | None = None
) -> None:
    """Write a model's weights and configs; of one with adapters, all together or, without ``merge``, these alone.
    ``weights`` are a sharded model's."""
    if not adapted(model):
        model.save_pretrained(folder, state_dict=weights)
    elif merge:
        save_merged(model, folder, weights)
    else:
        save_adapters(model, folder, weights)


def save_adapters(model: PreTrainedModel, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write a model's adapters in PEFT's format; their base is named by the place that it was loaded from."""
    # transformers asks a quantized model for its own weights, which may be shards, whatever it is given.
    quantizer = model.__dict__.pop("hf_quantizer", None)
    try:
        model.save_pretrained(folder, state_dict=weights)
    finally:
        if quantizer is not None:
            model.hf_quantizer = quantizer
    path = folder / CONFIG
    config = json.loads(path.read_text())
    base = Path(config["base_model_name_or_path"])
    config["base_model_name_or_path"] = str(base.resolve() if base.exists() else base)
    # PEFT keeps them in a set, whose order is another in every process.
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
