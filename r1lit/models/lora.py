"""Low-rank adapters (LoRA, arXiv 2106.09685) in a model's linear layers, by PEFT: what is trained in place of the
weights."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from transformers import PreTrainedModel

from r1lit.models.quantization import dense, held_weight, unpacked_size
from r1lit.settings import Settings

ALL_LINEAR = "all-linear"

INITS: dict[str, bool | str] = {"kaiming": True, "gaussian": "gaussian"}
"""By name, what PEFT draws A by. B is 0 in both: an adapted model begins as its base."""


class LoraSettings(Settings):
    """Adapters that are trained while the model's own weights stay as they are.

    Attributes:
        rank: r, of the product B A that is added to a layer's weight; null or 0 trains all weights instead.
        alpha: the product is scaled by ``alpha / rank``; null is 2 x rank.
        rslora: scale by ``alpha / sqrt(rank)`` instead (arXiv 2312.03732).
        target_modules: ``all-linear``, every linear layer but the head; or the ends of layers' names: [q_proj, v_proj].
        init: A is drawn by ``kaiming``, as PEFT does by default, or from a ``gaussian``; B is 0.
        seed: of that draw.
        dropout: 0.
        merge: export a whole model, the adapters added to its weights; false: the adapters alone, in PEFT's format.
    """

    rank: int | None = Field(None, ge=0)
    alpha: float | None = Field(None, gt=0)
    rslora: bool = False
    target_modules: Literal["all-linear"] | list[str] = ALL_LINEAR
    init: Literal["kaiming", "gaussian"] = "kaiming"
    seed: int = Field(0, ge=0)
    dropout: float = 0.0
    merge: bool = True

    @field_validator("dropout")
    @classmethod
    def _trains_as_it_samples(cls, value: float) -> float:
        if value:
            raise ValueError(f"dropout={value}, but a policy is trained as it samples; set model.lora.dropout=0")
        return value

    @model_validator(mode="after")
    def _peft_is_there(self) -> LoraSettings:
        if self.rank and find_spec("peft") is None:
            raise ValueError(
                f"model.lora.rank={self.rank} needs PEFT, which is not installed; pip install 'r1lit[lora]', or set "
                "model.lora.rank=0"
            )
        return self


def attach(model: PreTrainedModel, settings: LoraSettings, heads: Sequence[str] = ()) -> None:
    """Put adapters into the model and freeze all else but the modules named by ``heads``; at rank 0, do nothing.

    The model stays what it is, an instance of its own class, and its logits are the same until an update. Its
    ``state_dict`` is from now on what is trained; what it loads may lack the rest.

    Raises:
        ValueError: for ``target_modules`` that the model has not, that are its embeddings or its head, or whose
            adapters could not be merged, where they are to be.
    """
    if not settings.rank:
        return
    from peft import LoraConfig, TaskType

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha or 2 * settings.rank,
        use_rslora=settings.rslora,
        target_modules=settings.target_modules,
        init_lora_weights=INITS[settings.init],
        lora_dropout=0.0,
        task_type=TaskType.SEQ_CLS if heads else TaskType.CAUSAL_LM,
    )
    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        try:
            model.add_adapter(config)
        except ValueError as error:
            raise ValueError(f"model.lora.target_modules={settings.target_modules}: {error}") from error
    _require_inner(model, settings, heads)
    if settings.merge:
        _require_mergeable(model, settings)
    for name in heads:
        model.get_submodule(name).requires_grad_(True)
    for parameter in trained_parameters(model):
        # Updates are smaller than what half precision can add to a weight.
        parameter.data = parameter.data.float()
    kept = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    model.register_state_dict_post_hook(partial(_drop_frozen, kept))
    model.register_load_state_dict_pre_hook(_fill_in_frozen)


def _require_inner(model: PreTrainedModel, settings: LoraSettings, heads: Sequence[str]) -> None:
    """Log-probabilities are made from the head's weight, and a tied head is the embedding."""
    outer = {id(model.get_input_embeddings()): "embeddings", id(model.get_output_embeddings()): "head"}
    outer |= {id(model.get_submodule(name)): "head" for name in heads}
    for name, layer in _adapted_layers(model):
        if id(layer) in outer:
            raise ValueError(
                f"model.lora.target_modules={settings.target_modules} puts an adapter on {name}, the model's "
                f"{outer[id(layer)]}, but adapters belong into the linear layers between embeddings and head; leave "
                f"it out, or set model.lora.target_modules={ALL_LINEAR}"
            )


def _drop_frozen(
    kept: frozenset[str], module: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]
) -> None:
    """What is loaded with the model anyway is not saved with its training."""
    for key in [key for key in state if key.startswith(prefix) and key.removeprefix(prefix) not in kept]:
        del state[key]


def _fill_in_frozen(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """What is frozen stays what it is; adapters that are missing are still an error."""
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            state.setdefault(prefix + name, parameter)
    for name, buffer in module.named_buffers():
        owner, _, last = name.rpartition(".")
        if last not in module.get_submodule(owner)._non_persistent_buffers_set:
            state.setdefault(prefix + name, buffer)


def adapted(model: nn.Module) -> bool:
    """Whether adapters are attached to the model."""
    return getattr(model, "_hf_peft_config_loaded", False)


@contextmanager
def adapters_off(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model computes as its base does; for passes without gradients."""
    model.disable_adapters()
    try:
        yield
    finally:
        model.enable_adapters()


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are updated, always in one order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """How many parameters are trained, and how many there are; of packed ones, what they stand for.

    >>> parameter_counts(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1).requires_grad_(False)))
    (8, 11)
    """
    return sum(map(unpacked_size, trained_parameters(model))), sum(map(unpacked_size, model.parameters()))


def save_merged(
    model: PreTrainedModel, folder: str | os.PathLike, weights: Mapping[str, Tensor] | None = None
) -> None:
    """Write the model as any tool knows it: the adapters added to the weights, and the weights unpacked.

    The model itself is left as it is: to add adapters and to take them away again would not give the same weights.
    ``weights`` are the merged ones of a sharded model; of those that are tied, one will do.
    """
    whole = _bare(model)
    given = merged_weights(model) if weights is None else weights.items()
    merged = {name: value.cpu() for name, value in given}
    places = dict(whole.named_parameters(remove_duplicate=False))
    held = {id(places[name]): value for name, value in merged.items() if name in places}
    everywhere = {name: held[id(place)] for name, place in places.items()}
    whole.load_state_dict(merged | everywhere, assign=True)
    whole.tie_weights()
    if model.can_generate():
        whole.generation_config = model.generation_config
    whole.save_pretrained(folder)


def merged_weights(model: PreTrainedModel, tied: bool = True) -> Iterator[tuple[str, Tensor]]:
    """Every weight by the name that the plain architecture gives it, the adapters' part added, one after the other;
    one that is tied to another too, or under one of its names alone."""
    for name in plain_names(model, tied):
        yield name, merged_weight(model, name)


def plain_names(model: PreTrainedModel, tied: bool = True) -> list[str]:
    """The names that the plain architecture gives its weights; of those that are tied all, or one alone."""
    bare = _bare(model)
    return list(bare.state_dict() if tied else dict(bare.named_parameters()))


@torch.no_grad()
def merged_weight(model: PreTrainedModel, name: str) -> Tensor:
    """One weight by its plain name, the adapters' part added."""
    weight, adapters = _parts(model, name)
    deltas = [layer.get_delta_weight(adapter) for layer in adapters for adapter in layer.active_adapters]
    value = dense(weight).detach()
    # The sum is taken in the adapters' precision, and rounded once.
    return sum(deltas, value.float()).to(value.dtype) if deltas else value


def _parts(model: PreTrainedModel, name: str) -> tuple[Tensor, list[nn.Module]]:
    """The base's own weight of a plain name, and the adapted layers that add to it."""
    place, _, kind = name.rpartition(".")
    layer, adapters = model.get_submodule(place), []
    # A mixture's experts have several parameters, and for each an adapted layer around the others'.
    while hasattr(layer, "get_delta_weight"):
        if kind == getattr(layer, "parameter_name", "weight"):
            adapters.append(layer)
        layer = layer.base_layer
    return held_weight(layer, kind), adapters


def _require_mergeable(model: PreTrainedModel, settings: LoraSettings) -> None:
    """No adapter may be lost in the export."""
    known = {id(layer) for name in _bare(model).state_dict() for layer in _parts(model, name)[1]}
    if lost := [name for name, layer in _adapted_layers(model) if id(layer) not in known]:
        raise ValueError(
            f"model.lora.target_modules={settings.target_modules} adapts {lost[0]}, whose adapter cannot be added to a "
            "weight of the model; choose others, or set model.lora.merge=false"
        )


def _bare(model: PreTrainedModel) -> PreTrainedModel:
    """The model's architecture without adapters, quantization, or any memory."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        bare = type(model)(config)
    if (conversions := getattr(model, "_weight_conversions", None)) is not None:
        bare._weight_conversions = conversions
    return bare


def _adapted_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    from peft.tuners.lora import LoraLayer

    return [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]
