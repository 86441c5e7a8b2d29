"""Log-probabilities of completions under a model, without logits for the prompt or for padding."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from r1lit.functional import head_logprobs, head_predictions
from r1lit.models.attention import in_own_arithmetic
from r1lit.models.forward import inside_forward
from r1lit.models.packing import Packed

_PROBE_TOKENS = 8


@dataclass(frozen=True)
class Head:
    """What a model does between its last hidden states and its logits: ``softcap * tanh(scale * W h / softcap)``."""

    scale: float = 1.0
    softcap: float | None = None


_HEADS: WeakKeyDictionary[PreTrainedModel, Head] = WeakKeyDictionary()


@inside_forward
def completion_logprobs(
    model: PreTrainedModel, part: Packed, completion_mask: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probability of each completion token, and the entropy of the distribution it was predicted by.

    The head is applied to the positions before completion tokens alone.

    Shapes: the n sequences of the part, row by row, in completion_mask bool [n, T], each with as many True as it has
    targets; logprobs and entropy are [n, T], in nats, 0 at padding.

    Raises:
        ValueError: where the model makes its logits in a way that is not known.
    """
    head, inputs = _head_inputs(model, part)
    logprobs, entropy = head_logprobs(**inputs, temperature=temperature, softcap=head.softcap)
    return _grid(logprobs, completion_mask), _grid(entropy, completion_mask)


@inside_forward
def target_predictions(model: PreTrainedModel, part: Packed) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability of each target, the entropy of what it was predicted by, and whether it was the likeliest token.

    Shapes: of the part's M targets, row by row, [M] float, [M] float and [M] bool.

    Raises:
        ValueError: where the model makes its logits in a way that is not known.
    """
    head, inputs = _head_inputs(model, part)
    return head_predictions(**inputs, softcap=head.softcap)


def _head_inputs(model: PreTrainedModel, part: Packed) -> tuple[Head, dict[str, Tensor | None]]:
    """How the model makes logits, and of what it makes those before the targets."""
    head, output = head_of(model), model.get_output_embeddings()
    hidden = model.base_model(**part.inputs(model), use_cache=False).last_hidden_state[:, :-1][part.target_mask]
    return head, {
        "hidden": hidden * head.scale if head.scale != 1 else hidden,
        "head_weight": output.weight,
        "ids": part.input_ids[:, 1:][part.target_mask],
        "bias": getattr(output, "bias", None),
    }


def _grid(values: Tensor, mask: Tensor) -> Tensor:
    """Put [M] values, row by row, where the mask [n, T] is True."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values)


def head_of(model: PreTrainedModel) -> Head:
    """How the model turns hidden states into logits, proven on a few tokens the first time it is asked.

    Raises:
        ValueError: where its logits are not those that its config tells of.
    """
    if model not in _HEADS:
        head = _configured(model)
        _prove(model, head)
        _HEADS[model] = head
    return _HEADS[model]


def _configured(model: PreTrainedModel) -> Head:
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0  # Cohere multiplies
    scale /= getattr(config, "logits_scaling", None) or 1.0  # Granite divides
    return Head(scale=scale, softcap=getattr(config, "final_logit_softcapping", None))


@torch.no_grad()
def _prove(model: PreTrainedModel, head: Head) -> None:
    output = model.get_output_embeddings()
    if output is None:
        raise ValueError(f"{type(model).__name__} has no head over the vocabulary; give a causal LM")
    weight = output.weight
    ids = torch.arange(_PROBE_TOKENS, device=weight.device)[None] % weight.shape[0]
    # Autocast rounds a cap on the logits by more than a wrong head might differ.
    with in_own_arithmetic(model):
        exact = weight.dtype == torch.float32 and not torch.is_autocast_enabled(weight.device.type)
        expected = model(input_ids=ids, use_cache=False).logits.float()
        logits = _unscaled(model, ids).float() * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    tolerance = 1e-3 if exact else 5e-2
    if not torch.allclose(logits, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max())):
        raise ValueError(
            f"{type(model).__name__}'s logits differ from {head} applied to its hidden states, so their "
            "log-probabilities would be wrong; use a model whose head is linear, scaled or soft-capped"
        )


@inside_forward
def _unscaled(model: PreTrainedModel, ids: Tensor) -> Tensor:
    return model.get_output_embeddings()(model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
