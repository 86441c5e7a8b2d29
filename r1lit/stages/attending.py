"""How the model attends in a run, and how sequences share its passes: settled before anything is trained, and said."""

from __future__ import annotations

from transformers import PreTrainedModel

from r1lit.models.attention import attention_of
from r1lit.models.packing import packs
from r1lit.settings import ConfigError
from r1lit.stages.run import Run
from r1lit.stages.setup import arithmetic, device_of
from r1lit.stages.summary import Summary


def show_attention(run: Run, policy: PreTrainedModel, summary: Summary) -> None:
    """Say which attention the policy computes with, and whether it is trained on packed sequences.

    Raises:
        ConfigError: for model.packing=packed where the model does not keep sequences apart.
    """
    try:
        with arithmetic(run):
            packed = packs(policy, run.model.packing)
    except ValueError as error:
        raise ConfigError([str(error)]) from error
    name, device = attention_of(policy), device_of(run.trainer.accelerator).type.upper()
    if packed:
        layout = "packed end to end"
    elif run.model.packing == "padded":
        layout = "padded by length"
    else:
        layout = f"padded by length, since {type(policy).__name__} does not keep packed ones apart"
    summary.add(attention={"name": name, "sequences": "packed" if packed else "padded"})
    summary.say(f"attention: {name}, sequences {layout} ({device})")
