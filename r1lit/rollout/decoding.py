"""The decoding loop: a batch of rows, one token a step, finished rows retired."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from r1lit.rollout.draw import UniformStream, draw
from r1lit.rollout.masks import Masks
from r1lit.rollout.prefill import Forward, Prefilled
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


class Decoder(Protocol):
    """A model and n rows in flight, one token a step.

    Attributes:
        device: where the rows are.
        logits: [n, V], of each row's next token.
    """

    device: torch.device
    logits: Tensor

    def kept(self, rows: int, active: int) -> int:
        """How many of so many rows to go on with, once so many of them are ``active``; all, where a drop costs more
        than it spares."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with the rows at ``rows`` int64 [m]."""
        ...

    def step(self, ids: Tensor) -> None:
        """Feed one token a row, int64 [n]; ``logits`` are then those of the next."""
        ...


class GrowingDecoder:
    """The model as it stands, with a cache that grows by a token a step.

    Args:
        model: any causal LM of transformers, in eval mode.
        prefilled: the prompts, as ``model`` has read them.
        owners: int64 [n], for each row, which of the prompts it continues.
    """

    def __init__(self, model: nn.Module, prefilled: Prefilled, owners: Tensor):
        self.device = owners.device
        self._cache, self._used = prefilled.cache, prefilled.width
        self._forward = Forward(model, self._cache)
        self._masks = Masks(model, prefilled) if prefilled.padded else None
        self._positions = prefilled.lengths[:, None]
        self.logits = prefilled.logits
        self.keep(owners)

    def kept(self, rows: int, active: int) -> int:
        return active if rows - active >= RETIRE_SHARE * rows else rows

    def keep(self, rows: Tensor) -> None:
        """Go on with the rows at ``rows`` int64 [m], which may name one several times."""
        self._cache.batch_select_indices(rows)
        self._positions = self._positions[rows]
        self.logits = self.logits[rows]
        if self._masks is not None:
            self._masks.keep(rows)

    def step(self, ids: Tensor) -> None:
        self._used += 1
        mask = None if self._masks is None else self._masks.at(self._used)
        self.logits = self._forward(self._positions, input_ids=ids[:, None], attention_mask=mask)
        self._positions = self._positions + 1


def steps_unasked(device: torch.device) -> int:
    """How many steps a device goes before it is asked which rows have finished."""
    return 1 if device.type == "cpu" else ACCELERATOR_CHECK_STEPS


def decode(
    decoder: Decoder,
    rows: Tensor,
    drawn: Drawn,
    uniforms: UniformStream,
    stops: Tensor,
    sampling: Sampling,
    on_finished: OnFinished,
    every: int,
) -> None:
    """Draw tokens until every row has ended or has ``max_tokens``.

    The host waits for the device once in ``every`` steps, and in no other.

    Args:
        decoder: prefilled with n rows.
        rows: int64 [n], where in ``drawn`` and ``uniforms`` each of them stands.
        drawn: filled in place.
        uniforms: random numbers.
        stops: int64 [S], ids that end a completion and belong to it.
        sampling: how to draw.
        on_finished: told which rows (numbers as in ``rows``) are finished; it may hear of one again.
        every: steps after which the device is asked which rows have finished.
    """
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
            kept = decoder.kept(len(rows), len(rows) - len(over))
            if kept < len(rows):
                # Where more are kept than are active, finished rows fill up.
                staying = (~active).byte().argsort(stable=True)[:kept]
                decoder.keep(staying)
                rows, ids, active = rows[staying], ids[staying], active[staying]
        decoder.step(ids)
    on_finished(rows.tolist())
