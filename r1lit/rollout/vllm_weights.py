"""Weights on their way to an engine: their names, their digests, and whether what arrived is what was sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from r1lit.distributed.plan import is_sharded, merged_shards
from r1lit.models.lora import adapted, merged_weights
from r1lit.settings import UserError

NamedTensors = Iterable[tuple[str, Tensor]]
"""Weights under the names of a Hugging Face checkpoint; a tied weight appears once."""

Share = tuple[int, int, int]
"""The digest of a part of a parameter, which part it is, and of how many: (d, 0, 1) is the whole."""

_CHUNK = 1 << 22
_FIRST, _SECOND = 0x27D4EB2F165667C5, 0x1F123BB5159A55E5
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_MODULUS = 1 << 64
_NAMED = 5


class WeightPushError(UserError):
    """The engine does not hold the weights that it was sent."""


@dataclass(frozen=True)
class Received:
    """What an engine says it holds after a push.

    Attributes:
        version: the push that it believes it holds.
        digests: of each of its parameters by its own names, None where one was not loaded; a tied weight appears once.
        stale: modules that compute with a copy of their weight that was made before this push.
        fused: a module of the engine to the modules of the checkpoint that it is made of.
    """

    version: str
    digests: Mapping[str, int | None]
    stale: Sequence[str] = ()
    fused: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Held:
    """What one worker of an engine says it holds after a push, in plain values, as they come over a network.

    Attributes:
        worker: its number.
        version: the push that it believes it holds.
        digests: of each of its parameters, None where one was not loaded, with the share of the whole that it has.
        stale: modules that compute with a copy of their weight that was made before this push.
        fused: a module of the engine to the modules of the checkpoint that it is made of.
    """

    worker: int
    version: str
    digests: Mapping[str, Sequence[Share] | None]
    stale: Sequence[str] = ()
    fused: Mapping[str, Sequence[str]] = field(default_factory=dict)


def together(held: Sequence[Held]) -> Received:
    """What all workers of an engine hold: shares added up, and what several hold once, where they agree."""
    versions = list(dict.fromkeys(one.version for one in held))
    names = dict.fromkeys(name for one in held for name in one.digests)
    digests = {name: _whole([one.digests.get(name) for one in held]) for name in names}
    stale = [name if len(held) == 1 else f"{name} of worker {one.worker}" for one in held for name in one.stale]
    return Received(", ".join(versions), digests, stale, held[0].fused)


def _whole(held: Sequence[Sequence[Share] | None]) -> int | None:
    """A parameter's digest from what each worker holds of it; None where that does not make a whole."""
    if None in held or len({len(one) for one in held}) != 1:
        return None
    total = 0
    # A fused weight's queries may be spread otherwise than its keys and values.
    for parts in zip(*held, strict=True):
        found = {(part, of, value) for value, part, of in parts}
        of = len(found)
        if {(part, count) for part, count, _ in found} != {(part, of) for part in range(of)}:
            return None
        total += sum(value for _, _, value in found)
    return total % _MODULUS


def named_weights(policy: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A model's weights under their checkpoint names, each made whole where it is sharded, adapters added to theirs."""
    if adapted(policy):
        yield from merged_shards(policy) if is_sharded(policy) else merged_weights(policy, tied=False)
        return
    for name, parameter in policy.named_parameters():
        tensor = parameter.detach()
        # Shards that wait in the host's memory are put together where they compute, over its faster network.
        mesh = getattr(tensor, "device_mesh", None)
        yield name, tensor if mesh is None else tensor.to(mesh.device_type).full_tensor()


@torch.no_grad()
def digest(tensor: Tensor) -> int:
    """A number for the bits of a tensor's elements, below 2^64: the sum of a hash of each.

    It is exact, does not depend on the elements' order, and adds up: the digest of tensors put together is the sum of
    theirs modulo 2^64, and zeros (padding) add nothing. So the parts of a fused weight can be compared with the whole.

    >>> ones, twos = torch.ones(3), torch.full((2,), 2.0)
    >>> (digest(ones) + digest(twos)) % 2**64 == digest(torch.cat([twos, torch.zeros(5), ones]))
    True
    >>> digest(ones) == digest(torch.ones(3, dtype=torch.bfloat16))
    False
    """
    bits = tensor.detach().reshape(-1).view(_BITS[tensor.element_size()])
    total = 0
    for part in bits.split(_CHUNK):
        # int64 arithmetic wraps around, as a hash may.
        mixed = part.to(torch.int64) * _FIRST
        mixed = (mixed ^ (mixed >> 31)) * _SECOND
        total += int((mixed ^ (mixed >> 29)).sum())
    return total % _MODULUS


class Making:
    """Weights as they are made, which takes all processes where they are sharded.

    Attributes:
        broken: True where one could not be made.
    """

    def __init__(self, weights: NamedTensors):
        self._weights, self.broken = iter(weights), False

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return self

    def __next__(self) -> tuple[str, Tensor]:
        try:
            return next(self._weights)
        except Exception as error:
            self.broken = not isinstance(error, StopIteration)
            raise


class Sent:
    """Weights in the engine's dtype, their digests noted while they pass.

    Attributes:
        digests: of each weight that has passed.
    """

    def __init__(self, weights: NamedTensors, dtype: torch.dtype):
        self._weights, self._dtype = weights, dtype
        self.digests: dict[str, int] = {}

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self._weights:
            tensor = tensor.to(self._dtype) if tensor.is_floating_point() else tensor
            self.digests[name] = digest(tensor)
            yield name, tensor.contiguous()


def require_received(sent: Mapping[str, int], version: str, received: Received) -> None:
    """Compare what an engine holds with what it was sent.

    Raises:
        WeightPushError: where anything differs.
    """
    remedy = "the run stops, because it would train on another policy's samples; go on with resume=RUN"
    if received.version != version:
        raise WeightPushError(
            f"the engine holds weights {received.version or 'of no push'}, but {version} were pushed; {remedy}"
        )
    expected = _expected(sent, received)
    wrong = [*_differing(expected, received), *(f"{name} (its packed copy)" for name in received.stale)]
    # An engine with names of its own can be told by the sum of all alone.
    named = expected.keys() == received.digests.keys()
    total = sum(value or 0 for value in received.digests.values())
    lost = None in received.digests.values() or (total - sum(sent.values())) % _MODULUS
    if received.stale or lost or (named and wrong):
        shown = ", ".join(wrong[:_NAMED]) + (", ..." if len(wrong) > _NAMED else "")
        raise WeightPushError(
            f"after weights {version} were pushed, {len(wrong)} of the engine's {len(received.digests)} parameters "
            f"differ from the policy's ({shown or 'none of them by name'}); {remedy}"
        )


def _expected(sent: Mapping[str, int], received: Received) -> dict[str, int]:
    """The digests that were sent, by the engine's names, where these can be told from those that were sent."""
    whole = {part: module for module, parts in received.fused.items() for part in parts}
    expected: dict[str, int] = {}
    for name, value in sent.items():
        name = ".".join(whole.get(word, word) for word in name.split("."))
        expected[name] = (expected.get(name, 0) + value) % _MODULUS
    return expected


def _differing(expected: Mapping[str, int], received: Received) -> list[str]:
    """The engine's names of what differs."""
    names = [*received.digests, *(name for name in expected if name not in received.digests)]
    return [name for name in names if received.digests.get(name) != expected.get(name)]
