"""The last checkpoint of a run, as a Hugging Face model directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from r1lit.callbacks.checkpointing import checkpoints
from r1lit.callbacks.storage import storing
from r1lit.distributed.launch import launched
from r1lit.distributed.plan import whole_weights
from r1lit.distributed.shards import read_rest, read_whole
from r1lit.models.loading import save_model
from r1lit.models.reward_model import Scoring, alone_problem, new_reward_model, set_scoring
from r1lit.settings import ConfigError
from r1lit.stages.run import Run
from r1lit.stages.setup import load_model
from r1lit.stages.summary import Summary


def export(run: Run, summary: Summary) -> None:
    """Write ``model/`` from the newest checkpoint of the run that ``resume`` names.

    Raises:
        ConfigError: where there is no run, or no checkpoint in it.
    """
    found = checkpoints(run.directory) if run.command.resume else []
    if not found:
        raise ConfigError(
            [f"stage=export writes a run's last checkpoint, but {run.directory} has none; set resume=RUN_DIRECTORY"]
        )
    checkpoint = read_checkpoint(found[-1])
    state = checkpoint["state_dict"]
    prefix = next(prefix for prefix in TRAINED if any(name.startswith(prefix) for name in state))
    model, tokenizer = TRAINED[prefix](run)
    model.load_state_dict(
        {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    )
    if "stop_ids" in checkpoint:
        model.generation_config.eos_token_id = checkpoint["stop_ids"]
    write_model(model, tokenizer, run)
    summary.say(f"{found[-1].name} is now in {run.directory / 'model'}")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's weights and the rest but the optimiser's state, whether it is in one file or in shards."""
    if path.is_dir():
        return read_rest(path) | {"state_dict": read_whole(path, "model.")}
    return torch.load(path, map_location="cpu", weights_only=True)


def _policy(run: Run) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return load_model(run.model)


def _reward_model(run: Run) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """How its scores are spread is measured at the end of training, and is not known here."""
    if problem := alone_problem(run.model.lora):
        raise ConfigError([problem])
    try:
        model, tokenizer = new_reward_model(run.model)
    except (OSError, ValueError) as error:
        raise ConfigError([str(error)]) from error
    set_scoring(model, Scoring(run.reward_model.kind, run.reward_model.part, run.data.template))
    return model, tokenizer


TRAINED: Mapping[str, Callable[[Run], tuple[PreTrainedModel, PreTrainedTokenizerBase]]] = {
    "policy.": _policy,
    "reward_model.": _reward_model,
}
"""What loads the model that a checkpoint's weights are for, by what their names begin with."""


def write_model(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, run: Run) -> None:
    """Write ``model/`` into the run's directory, whole or not at all; the first process does, with everyone's shards.

    Raises:
        StorageError: where there is no room for it, or no permission.
    """
    weights = whole_weights(policy, run.model.lora.merge)
    if not launched().first:
        return
    saved = checkpoints(run.directory)
    with storing(run.directory / "model", f"then: r1lit stage=export resume={run.directory}" if saved else ""):
        save_model(policy, tokenizer, run.directory / "model", run.model.lora.merge, weights)
