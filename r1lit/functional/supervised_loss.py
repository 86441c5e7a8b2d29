"""The loss of learning to say what a demonstration says."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from r1lit.functional.variants import pick


def supervised_loss(
    logprobs: Tensor,
    normalize: str = "tokens",
    *,
    total_tokens: int,
    total_rows: int,
    tokens_per_row: int = 1,
) -> Tensor:
    """A micro-batch's share of an update's negative log-likelihood; the shares add up to the update's loss.

    The sum over trained tokens of ``-log p`` is divided, over all micro-batches alike,

    - ``tokens``: by the update's trained tokens, so that it is their mean;
    - ``constant``: by its rows times ``tokens_per_row``, so that a token weighs the same in every update.

    Shapes: logprobs [M], of this micro-batch's trained tokens -> [].

    Args:
        total_tokens: trained tokens of the whole update.
        total_rows: demonstrations of the whole update.

    Raises:
        ValueError: where ``normalize`` is unknown.

    >>> import torch
    >>> supervised_loss(torch.tensor([-1.0, -2.0]), total_tokens=4, total_rows=1)
    tensor(0.7500)
    """
    return -logprobs.sum() / pick("normalize", normalize, _DIVISORS)(total_tokens, total_rows, tokens_per_row)


_DIVISORS: dict[str, Callable[[int, int, int], int]] = {
    "tokens": lambda tokens, rows, tokens_per_row: max(tokens, 1),
    "constant": lambda tokens, rows, tokens_per_row: rows * tokens_per_row,
}
