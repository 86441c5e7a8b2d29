"""Finished rows become groups, and groups a rollout."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from r1lit.rollout.decoding import Drawn
from r1lit.rollout.sampler import OnGroup
from r1lit.settings import UserError
from r1lit.types import Group, Prompt, Rollout, Sampling


class NonFiniteLogitsError(UserError, FloatingPointError):
    """The model's logits hold NaN or infinity, so nothing can be sampled from it."""


class GroupCollector:
    """Hands each prompt's group over as soon as its last row has finished.

    Args:
        prompts: B prompts.
        size: G.
        drawn: where the N = B x G rows are being written.
        tokenizer: makes the texts.
        stops: ids that end a completion; a closing one is no part of its text.
        on_group: told of each finished group, once.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        size: int,
        drawn: Drawn,
        tokenizer: PreTrainedTokenizerBase,
        stops: Sequence[int],
        on_group: OnGroup | None = None,
    ):
        self._prompts, self._size, self._drawn = prompts, size, drawn
        self._tokenizer, self._stops, self._on_group = tokenizer, frozenset(stops), on_group
        self._open = [set(range(b * size, (b + 1) * size)) for b in range(len(prompts))]
        self._groups: dict[int, Group] = {}

    def finish(self, rows: list[int]) -> None:
        """Take note of finished rows; one may be named again.

        Raises:
            NonFiniteLogitsError: if a group's log-probabilities are not finite.
        """
        for row in rows:
            b = row // self._size
            self._open[b].discard(row)
            if not self._open[b] and b not in self._groups:
                self._groups[b] = self._group(b)
                if self._on_group is not None:
                    self._on_group(b, self._groups[b])

    def rollout(self, sampling: Sampling) -> Rollout:
        """All B groups, once all rows have finished; the tensors are cut to the longest completion."""
        groups = tuple(self._groups[b] for b in range(len(self._prompts)))
        longest = max(len(ids) for group in groups for ids in group.completion_ids)
        tensors = (self._drawn.ids, self._drawn.mask, self._drawn.logprobs)
        ids, mask, logprobs = (tensor[:, :longest].clone() for tensor in tensors)
        return Rollout(groups=groups, completion_ids=ids, completion_mask=mask, logprobs=logprobs, sampling=sampling)

    def _group(self, b: int) -> Group:
        rows = slice(b * self._size, (b + 1) * self._size)
        self._require_finite(b, self._drawn.logprobs[rows])
        lengths = self._drawn.mask[rows].sum(-1).tolist()
        ids = [row[:length] for row, length in zip(self._drawn.ids[rows].tolist(), lengths, strict=True)]
        truncated = [row[-1] not in self._stops for row in ids]
        bodies = [row if cut else row[:-1] for row, cut in zip(ids, truncated, strict=True)]
        texts = self._tokenizer.batch_decode(bodies, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        prompt = self._prompts[b]
        return Group(prompt, ids, [prompt.prefill + text for text in texts], truncated)

    def _require_finite(self, b: int, logprobs: Tensor) -> None:
        bad = int((~logprobs.isfinite()).any(-1).sum())
        if bad:
            raise NonFiniteLogitsError(
                f"{bad} of {self._size} completions of prompt {b} have log-probabilities that are not finite: the "
                "model's logits overflowed or its weights hold NaN; go back to an earlier checkpoint"
            )
