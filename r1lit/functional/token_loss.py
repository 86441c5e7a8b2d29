"""Each token's share of an update's loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from r1lit.functional.variants import pick


def token_weights(
    mask: Tensor,
    how: str = "sequence",
    constant: float | None = None,
    *,
    total_rows: int | Tensor | None = None,
    total_tokens: int | Tensor | None = None,
) -> Tensor:
    """The weight of each token in the loss of a whole update, so that ``loss = (weights * per_token_loss).sum()``.

    Taken over all n rows of the update before its first backward, so that cutting the rows into micro-batches cannot
    change the gradient. With |o_i| the trained tokens of row i, a token of row i weighs

    - ``sequence``: 1 / (n |o_i|) (GRPO, 2402.03300, eq. 3);
    - ``token``: 1 / sum_j |o_j| (DAPO, 2503.14476, eq. 8);
    - ``constant``: 1 / (n constant), the constant being the longest completion allowed (Dr. GRPO, 2503.20783);
    - ``sum``: 1 / n (LUSPO, 2602.05261).

    Shapes: mask bool [n, T], True = trained -> float32 [n, T], 0 where not trained. A row without a trained token
    weighs nothing but counts in n.

    Args:
        total_rows: n over all ranks whose gradients are *summed*, where this rank holds only some of the rows.
        total_tokens: the trained tokens of all those ranks.

    Raises:
        ValueError: where ``how`` is unknown, or ``constant`` is asked for without a constant above 0.

    >>> token_weights(torch.tensor([[True, True], [True, False]]), "sequence")
    tensor([[0.2500, 0.2500],
            [0.5000, 0.0000]])
    """
    share = pick("how", how, _SHARES)
    if share is _per_constant and not (constant and constant > 0):
        raise ValueError(f"constant={constant}, but how='constant' divides by it; pass the longest completion allowed")
    lengths = mask.sum(-1, keepdim=True).float()
    rows = torch.as_tensor(len(mask) if total_rows is None else total_rows, device=mask.device)
    tokens = torch.as_tensor(lengths.sum() if total_tokens is None else total_tokens, device=mask.device)
    return mask / share(lengths.clamp(min=1), rows.clamp(min=1), tokens.clamp(min=1), constant)


def _per_sequence(lengths: Tensor, rows: Tensor, tokens: Tensor, constant: float | None) -> Tensor:
    return rows * lengths


def _per_token(lengths: Tensor, rows: Tensor, tokens: Tensor, constant: float | None) -> Tensor:
    return tokens


def _per_constant(lengths: Tensor, rows: Tensor, tokens: Tensor, constant: float | None) -> Tensor:
    return rows * constant


def _per_row(lengths: Tensor, rows: Tensor, tokens: Tensor, constant: float | None) -> Tensor:
    return rows


_SHARES: dict[str, Callable[[Tensor, Tensor, Tensor, float | None], Tensor]] = {
    "sequence": _per_sequence,
    "token": _per_token,
    "constant": _per_constant,
    "sum": _per_row,
}
