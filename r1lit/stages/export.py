"""The last checkpoint of a run, as a Hugging Face model directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from r1lit.callbacks.checkpointing import checkpoints
from r1lit.callbacks.storage import storing
from r1lit.models.loading import save_model
from r1lit.models.reward_model import Scoring, new_reward_model, set_scoring
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
    checkpoint = torch.load(found[-1], map_location="cpu", weights_only=True)
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


def _policy(run: Run) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return load_model(run.model)


def _reward_model(run: Run) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """How its scores are spread is measured at the end of training, and is not known here."""
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
    """Write ``model/`` into the run's directory, whole or not at all.

    Raises:
        StorageError: where there is no room for it, or no permission.
    """
    saved = checkpoints(run.directory)
    with storing(run.directory / "model", f"then: r1lit stage=export resume={run.directory}" if saved else ""):
        save_model(policy, tokenizer, run.directory / "model")
