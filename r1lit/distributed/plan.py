"""How a model is held in shards (FSDP2), decided in one place for policies, references and reward models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from transformers import PreTrainedModel

from r1lit.models.forward import FORWARD
from r1lit.models.loading import clone_frozen
from r1lit.models.logprobs import head_of
from r1lit.models.lora import adapted, merged_weight, plain_names
from r1lit.models.memory import decoder_layers
from r1lit.models.quantization import packings, set_packings

M = TypeVar("M", bound=PreTrainedModel)

_PLAN = "_r1lit_sharding"


@dataclass(frozen=True)
class Sharding:
    """How models are held by all processes together.

    Attributes:
        mesh: of the processes, 1-D; or 2-D, where models are replicated along the first dimension and sharded along
            the second.
        offload: keep shards, gradients and the optimiser's state in the host's memory, and compute on the device.
    """

    mesh: DeviceMesh
    offload: bool = False

    @classmethod
    def of(cls, device: str, size: int, replicas: int = 1, offload: bool = False) -> Sharding:
        """The sharding over ``size`` processes that hold ``replicas`` whole models between them."""
        if replicas == 1:
            return cls(init_device_mesh(device, (size,)), offload)
        names = ("replicate", "shard")
        return cls(init_device_mesh(device, (replicas, size // replicas), mesh_dim_names=names), offload)

    def apply(self, model: M) -> M:
        """Shard a model, in place: each decoder layer is gathered when it is computed, the rest for the whole pass.

        Gradients are summed over the processes, not averaged.

        Raises:
            ValueError: where it is not known which of its modules are decoder layers.
        """
        if not (layers := decoder_layers(model)):
            raise ValueError(
                f"{type(model).__name__} does not say what its decoder layers are, which trainer=fsdp shards one by "
                "one; set trainer=ddp"
            )
        policy: OffloadPolicy = OffloadPolicy()
        if self.offload:
            policy = CPUOffloadPolicy(pin_memory=torch.cuda.is_available())
        packed = packings(model)
        for layer in layers:
            fully_shard(layer, mesh=self.mesh, offload_policy=policy)
        # By default a whole model's own parameters stay gathered after a pass, which a backward pass ends. After one
        # without, an optimiser would be given what is no shard, and the next update would go unseen.
        fully_shard(model, mesh=self.mesh, offload_policy=policy, reshard_after_forward=True)
        set_packings(model, packed)
        for module in sharded_modules(model):
            # gloo can sum, but neither average nor scale.
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)
        setattr(model, FORWARD, MethodType(_run, model))
        register_fsdp_forward_method(model, FORWARD)
        setattr(model, _PLAN, self)
        return model


def _run(model: nn.Module, function: Any, *args: Any, **kwargs: Any) -> Any:
    return function(model, *args, **kwargs)


def is_sharded(model: nn.Module) -> bool:
    """True where the model is held in shards."""
    return isinstance(model, FSDPModule)


def sharded_modules(model: nn.Module) -> list[FSDPModule]:
    """The modules that are gathered as one: the decoder layers, and the model for all that is left."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def frozen_reference(model: M) -> M:
    """A copy of a model that shares nothing with it, held as the model is, in eval mode and without gradients."""
    if not is_sharded(model):
        return clone_frozen(model)
    kind = next(base for base in type(model).__bases__ if base is not FSDPModule)
    sharding: Sharding = getattr(model, _PLAN)
    # A sharded model cannot be copied, but another of its kind can be made without ever being whole anywhere.
    with torch.device("meta"):
        clone = kind._from_config(model.config, dtype=model.dtype)
    sharding.apply(clone)
    clone.to_empty(device="cpu" if sharding.offload else sharding.mesh.device_type)
    clone.load_state_dict(model.state_dict())
    buffers = dict(model.named_buffers())
    for name, buffer in clone.named_buffers():
        buffer.data = buffers[name].detach().clone()
    prove_head(clone)
    return clone.eval().requires_grad_(False)


def prove_head(model: PreTrainedModel) -> None:
    """Find out how a model makes its logits, which takes passes of their own, before it is first asked in a pass.

    Raises:
        ValueError: where it makes them in a way that is not known.
    """
    if model.get_output_embeddings() is not None:
        head_of(model)


def whole_weights(model: nn.Module, merge: bool = True) -> dict[str, Tensor] | None:
    """A sharded model's whole weights, on the first process's host, empty on the others; None for any other model.

    Those that are tied come once. Of a model with adapters they are what they make of its weights or, without
    ``merge``, the adapters alone. All processes are to ask for them.
    """
    if not is_sharded(model):
        return None
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - dict(model.named_parameters()).keys()
    if adapted(model) and merge:
        first = distributed.get_rank() == 0
        # A copy: what was gathered is gone with the layer.
        return {name: tensor.to("cpu", copy=True) for name, tensor in merged_shards(model) if first}
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {name: tensor for name, tensor in weights.items() if name not in tied}


def merged_shards(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """The weights of a sharded model with adapters, by their plain names, the adapters' part added, those that are tied
    once: one layer is gathered at a time. All processes are to ask for each, which is there until the next is."""
    left = plain_names(model, tied=False)
    places = {name: module for name, module in model.named_modules() if isinstance(module, FSDPModule)}
    # The longest name first: what no layer holds is left to the model itself.
    for place, module in sorted(places.items(), key=lambda item: -len(item[0])):
        own = [name for name in left if name.startswith(f"{place}." if place else "")]
        left = [name for name in left if name not in own]
        module.unshard()
        try:
            yield from ((name, merged_weight(model, name)) for name in own)
        finally:
            module.reshard()


def computing_device(model: PreTrainedModel) -> torch.device:
    """Where a model computes, which is not where it lies if its shards are kept in the host's memory."""
    sharding: Sharding | None = getattr(model, _PLAN, None)
    return model.device if sharding is None else torch.device(sharding.mesh.device_type)
