"""One token a row: the distribution it is drawn from, the draw itself, and its log-probability."""

from __future__ import annotations

import torch
from torch import Tensor

from r1lit.types import Sampling

BLOCK_STEPS = 64


class UniformStream:
    """Random numbers for N rows, one a step, that depend on the seed, the row and the step alone.

    Rows may be retired, or decoded in several batches: what a row draws stays the same. With ``skip`` the rows are
    counted from there on: so several processes can draw what one would.

    >>> stream = UniformStream(seed=7, rows=3, device="cpu")
    >>> later = stream.step(65)
    >>> bool((UniformStream(seed=7, rows=3, device="cpu").step(65) == later).all())
    True
    """

    def __init__(self, seed: int, rows: int, device: torch.device | str, skip: int = 0):
        self._generator = torch.Generator().manual_seed(seed)
        self._rows, self._device, self._skip = rows, torch.device(device), skip
        self._blocks = 0
        self._block = torch.empty(0)

    def step(self, t: int) -> Tensor:
        """float64 [N - skip], uniform in [0, 1). Steps may be left out, but not asked for again once a later block
        began."""
        while t >= self._blocks * BLOCK_STEPS:
            block = torch.rand(BLOCK_STEPS, self._rows, generator=self._generator, dtype=torch.float64)
            block = block[:, self._skip :].contiguous()
            # From memory that is not pinned, a copy waits for all that the device still has to do.
            block = block.pin_memory() if self._device.type == "cuda" else block
            self._block = block.to(self._device, non_blocking=True)
            self._blocks += 1
        return self._block[t % BLOCK_STEPS]


def draw(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Draw one token a row, by inverting the cumulative distribution at a uniform number.

    Args:
        logits: [n, V].
        uniforms: float64 [n] in [0, 1).
        sampling: temperature 0 takes the likeliest token and scores it at temperature 1.

    Returns:
        ids int64 [n], and float32 [n], the log-probability of each under the distribution it was drawn from;
        NaN where a row's logits are not finite.
    """
    logits = logits.float()
    if sampling.temperature == 0:
        ids = logits.argmax(-1)
        return ids, logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    if sampling.top_p >= 1:
        return _invert((logits - logits.amax(-1, keepdim=True)).exp(), uniforms)
    ranked, order = logits.sort(dim=-1, descending=True, stable=True)
    ids, logprobs = _invert(_nucleus(ranked.softmax(-1), sampling.top_p), uniforms)
    return order.gather(-1, ids[:, None])[:, 0], logprobs


def _nucleus(ranked: Tensor, top_p: float) -> Tensor:
    """Probabilities [n, V], largest first, with all but the smallest set that reaches ``top_p`` set to 0."""
    before = ranked.cumsum(-1, dtype=torch.float64) - ranked
    before[:, :1].zero_()  # rounding must not cost the likeliest token
    return ranked.masked_fill(before >= top_p, 0)


def _invert(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """The first token whose cumulative weight exceeds ``uniform * total``, which is never one of weight 0."""
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1]
    # u * total may round up to the total itself, which no token's cumulative weight exceeds.
    target = torch.minimum(uniforms * total, total.nextafter(torch.zeros_like(total)))
    ids = torch.searchsorted(cumulative, target[:, None], right=True).clamp_(max=weights.shape[-1] - 1)
    chosen = weights.gather(-1, ids)[:, 0]
    return ids[:, 0], (chosen.double() / total).log().float()
