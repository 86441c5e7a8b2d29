"""The decoding loop: a batch of rows, one token a step, finished rows retired."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from r1lit.distributed.plan import computing_device
from r1lit.models.attention import TORCH_VARLEN
from r1lit.rollout.cache import keeps_everything, make_cache
from r1lit.rollout.draw import UniformStream, draw
from r1lit.types import Sampling

RETIRE_SHARE = 0.125
"""Rows are dropped from the batch once this share of it has finished: a drop copies the cache of those that stay."""

ACCELERATOR_CHECK_STEPS = 16
"""On an accelerator the host asks only this often which rows have finished, because asking waits for the device."""

OnFinished = Callable[[list[int]], None]


@dataclass(frozen=True)
class Drawn:
    """What has been sampled so far: N rows of up to T tokens, filled while decoding.

    Attributes:
        ids: int64 [N, T], the padding id where nothing was drawn.
        mask: bool [N, T], True = a drawn token.
        logprobs: float32 [N, T], 0 where nothing was drawn.
        pad: the padding id.
    """

    ids: Tensor
    mask: Tensor
    logprobs: Tensor
    pad: int

    @classmethod
    def empty(cls, rows: int, tokens: int, pad: int, device: torch.device) -> Drawn:
        return cls(
            ids=torch.full((rows, tokens), pad, device=device),
            mask=torch.zeros(rows, tokens, dtype=torch.bool, device=device),
            logprobs=torch.zeros(rows, tokens, dtype=torch.float32, device=device),
            pad=pad,
        )

    def write(self, rows: Tensor, t: int, ids: Tensor, logprobs: Tensor, active: Tensor) -> None:
        """Note step t of the rows int64 [n], where ``active`` bool [n]; the others keep their padding."""
        self.ids[rows, t] = ids
        self.mask[rows, t] = active
        self.logprobs[rows, t] = logprobs.where(active, 0.0)


class Decoder:
    """A model, its cache and the n rows in flight.

    Prompts are padded on the left, so that every row's next token goes to the same slot of the cache.

    Args:
        model: any causal LM of transformers, in eval mode.
        prompts: token ids of the prompts that the rows share.
        owners: for each of the n rows, which of ``prompts`` it continues.
        max_tokens: the most tokens a row may get.
        pad: token id for padding, never attended to.
    """

    def __init__(
        self, model: nn.Module, prompts: Sequence[Sequence[int]], owners: Sequence[int], max_tokens: int, pad: int
    ):
        self.model, self.device = model, computing_device(model)
        self._accepts = inspect.signature(model.forward).parameters
        lengths = torch.tensor([len(ids) for ids in prompts])
        self._used = width = int(lengths.max())
        self._cache = make_cache(model, width + max_tokens)
        ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=self.device)
        slots = torch.arange(width + max_tokens) - (width - lengths)[:, None]
        # Without padding no mask is needed, which spares repeating grouped-query heads and allows faster kernels.
        self._seen = (slots >= 0).to(self.device) if int(lengths.min()) < width else None
        self._positions = slots[:, :width].clamp(min=0).to(self.device)
        self.logits = self._forward(ids, None if self._seen is None else self._seen[:, :width])
        self._positions = lengths[:, None].to(self.device)
        self._one_mask = self._takes_one_mask()
        self.keep(torch.tensor(owners, device=self.device))

    def keep(self, rows: Tensor) -> None:
        """Go on with the rows at ``rows`` int64 [m], which may name one several times."""
        self._cache.batch_select_indices(rows)
        self._positions = self._positions[rows]
        self.logits = self.logits[rows]
        if self._seen is not None:
            self._seen = self._seen[rows]

    def step(self, ids: Tensor) -> None:
        """Feed one token a row, int64 [n]; ``logits`` [n, V] are then those of the next."""
        self._used += 1
        mask = None if self._seen is None else self._seen[:, : self._used]
        if mask is not None and self._one_mask:
            mask = mask[:, None, None]
        self.logits = self._forward(ids[:, None], mask)
        self._positions = self._positions + 1

    def _forward(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        options = {"position_ids": self._positions, "logits_to_keep": 1}
        options = {name: value for name, value in options.items() if name in self._accepts}
        outputs = self.model(input_ids=ids, attention_mask=mask, past_key_values=self._cache, use_cache=True, **options)
        return outputs.logits[:, -1]

    def _takes_one_mask(self) -> bool:
        """Whether the mask can be handed over ready-made, instead of being rebuilt by the model at each step.

        Models with ALiBi read positions off the plain mask.
        """
        config = self.model.config.get_text_config()
        alibi = "position_ids" not in self._accepts or getattr(config, "alibi", False)
        return config._attn_implementation in ("sdpa", TORCH_VARLEN) and not alibi and keeps_everything(self._cache)


def decode(
    decoder: Decoder,
    rows: Tensor,
    drawn: Drawn,
    uniforms: UniformStream,
    stops: Tensor,
    sampling: Sampling,
    on_finished: OnFinished,
) -> None:
    """Draw tokens until every row has ended or has ``max_tokens``.

    Args:
        decoder: prefilled with n rows.
        rows: int64 [n], where in ``drawn`` and ``uniforms`` each of them stands.
        drawn: filled in place.
        uniforms: random numbers.
        stops: int64 [S], ids that end a completion and belong to it.
        sampling: how to draw.
        on_finished: told which rows (numbers as in ``rows``) are finished; it may hear of one again.
    """
    every = 1 if decoder.device.type == "cpu" else ACCELERATOR_CHECK_STEPS
    active = torch.ones_like(rows, dtype=torch.bool)
    for t in range(sampling.max_tokens):
        ids, logprobs = draw(decoder.logits, uniforms.step(t)[rows], sampling)
        ids = ids.where(active, drawn.pad)
        drawn.write(rows, t, ids, logprobs, active)
        active = active & (ids[:, None] != stops).all(-1)
        if t + 1 == sampling.max_tokens:
            break
        if (t + 1) % every == 0:
            over = rows[~active].tolist()
            if over:
                on_finished(over)
            if len(over) == len(rows):
                return
            if len(over) >= RETIRE_SHARE * len(rows):
                staying = active.nonzero()[:, 0]
                decoder.keep(staying)
                rows, ids, active = rows[staying], ids[staying], active[staying]
        decoder.step(ids)
    on_finished(rows.tolist())
