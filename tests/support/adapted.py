"""Models with adapters, and what tests ask of them."""

from __future__ import annotations

import torch

from r1lit.models.loading import ModelSettings, load_policy
from r1lit.models.logprobs import completion_logprobs
from r1lit.models.lora import trained_parameters
from r1lit.models.packing import Packed

IDS = torch.arange(24).view(2, 12)
MASK = torch.ones(2, 11, dtype=torch.bool)


def settings(**options) -> ModelSettings:
    return ModelSettings.model_validate({"lora": {"rank": 4}} | options)


def load(**options):
    return load_policy(settings(**options))[0]


def shift(model, scale: float = 0.05) -> None:
    """As if trained: every trained parameter is moved."""
    generator = torch.Generator().manual_seed(7)
    for parameter in trained_parameters(model):
        parameter.data += scale * torch.randn(parameter.shape, generator=generator)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits.float()


def logprobs(model) -> torch.Tensor:
    return completion_logprobs(model, Packed(IDS, MASK), MASK, 0.8)[0]


def assert_close(first: torch.Tensor, second: torch.Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5 * float(second.abs().max()))
