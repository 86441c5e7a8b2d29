"""Adapters in PEFT's format: a folder of them given as a model, and one written of a model's."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

from safetensors import safe_open
from transformers import PreTrainedModel

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


def save_adapters(model: PreTrainedModel, folder: Path) -> None:
    """Write a model's adapters in PEFT's format; their base is named by the place that it was loaded from."""
    model.save_pretrained(folder)
    path = folder / CONFIG
    config = json.loads(path.read_text())
    base = Path(config["base_model_name_or_path"])
    config["base_model_name_or_path"] = str(base.resolve() if base.exists() else base)
    # PEFT keeps them in a set, whose order is another in every process.
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
