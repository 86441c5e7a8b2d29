"""The in-process sampler: completions from any causal LM of transformers, sharing the policy's own weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from r1lit.distributed.plan import computing_device
from r1lit.models.loading import clone_frozen, copy_weights, stop_ids
from r1lit.rollout.decoding import Decoder, Drawn, GrowingDecoder, decode, steps_unasked
from r1lit.rollout.draw import UniformStream
from r1lit.rollout.grouping import GroupCollector
from r1lit.rollout.prefill import Prefilled, as_it_samples, prefill
from r1lit.rollout.sampler import OnGroup, require_drawable
from r1lit.rollout.settings import Decoding
from r1lit.rollout.shell import Shell, static_problem
from r1lit.rollout.static import StaticDecoder
from r1lit.types import Prompt, Rollout, Sampling

DESCRIPTIONS: Mapping[Decoding, Mapping[str, str]] = {
    "eager": {"cpu": "decoding eagerly"},
    "static": {"cpu": "decoding with fixed shapes", "cuda": "decoding with fixed shapes by CUDA graphs"},
    "compiled": {"cpu": "decoding by compiled steps", "cuda": "decoding by compiled steps in CUDA graphs"},
}
"""By ``rollout.decode`` and device."""


class TransformersSampler:
    """Draws completions in this process, from the very weights that are trained.

    Each prompt is prefilled once and its keys and values are cloned for its group; finished rows leave the batch.

    Args:
        model: the policy. It samples with dropout off and without gradients; its training flags are put back after.
        tokenizer: decodes completions, and says what ends one.
        max_batch_rows: the most completions decoded together; what is sampled does not depend on it.
        decoding: how a step is computed; what is sampled does not depend on it, but for rounding. ``eager``: the model
            as it stands; ``static``: with fixed shapes, on CUDA recorded as graphs; ``compiled``: these compiled too.

    Raises:
        ValueError: if ``max_batch_rows`` is below 1, if nothing is known to end a completion, or for a model that
            cannot decode so.
    """

    exact_logprobs = True
    in_step = False

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        max_batch_rows: int = 512,
        decoding: Decoding = "eager",
    ):
        if max_batch_rows < 1:
            raise ValueError(f"max_batch_rows={max_batch_rows}, but a batch has rows; set it to 1 or more")
        if decoding != "eager" and (problem := static_problem(model)):
            raise ValueError(f"rollout.decode={decoding}, but {problem}; set rollout.decode=eager")
        self.model, self.tokenizer, self.max_batch_rows, self.decoding = model, tokenizer, max_batch_rows, decoding
        self.stops = stop_ids(model, tokenizer)
        self._shell: Shell | None = None
        self._whose = "the weights that are trained"

    @property
    def description(self) -> str:
        how = DESCRIPTIONS[self.decoding].get(computing_device(self.model).type, DESCRIPTIONS[self.decoding]["cpu"])
        return f"transformers in this process, on {self._whose}, {how}"

    def apart(self) -> TransformersSampler:
        """A sampler like this one whose model is a copy, which the policy's updates leave as it is."""
        other = TransformersSampler(clone_frozen(self.model), self.tokenizer, self.max_batch_rows, self.decoding)
        other._whose = "a copy of the weights"
        return other

    def load_weights(self, policy: nn.Module) -> None:
        """Sample from ``policy``'s weights from now on: nothing to do where it is the sampler's own model."""
        if policy is not self.model:
            copy_weights(policy, self.model)

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Prompt],
        group_size: int,
        sampling: Sampling,
        *,
        seed: int,
        on_group: OnGroup | None = None,
        before: int = 0,
        of: int | None = None,
    ) -> Rollout:
        """Draw ``group_size`` completions of each of the B prompts; see :class:`r1lit.rollout.sampler.Sampler`.

        Raises:
            ValueError: without prompts, completions or tokens to draw, or if a prompt leaves no room for them.
            NonFiniteLogitsError: if the model's logits are not finite.
        """
        room = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        require_drawable(prompts, group_size, sampling, room, "the model's", "lower max_tokens or drop it")
        device = computing_device(self.model)
        drawn = Drawn.empty(len(prompts) * group_size, sampling.max_tokens, self._pad, device)
        stops = torch.tensor(self.stops, device=device)
        groups = GroupCollector(prompts, group_size, drawn, self.tokenizer, self.stops, on_group)
        with as_it_samples(self.model), self._decoders() as decoder_of:
            for rows in _batches(len(prompts), group_size, self.max_batch_rows):
                first, last = rows[0] // group_size, rows[-1] // group_size
                asked = [prompt.ids for prompt in prompts[first : last + 1]]
                owners = torch.tensor([row // group_size - first for row in rows], device=device)
                whole = self.decoding != "eager"
                decoder = decoder_of(prefill(self.model, asked, sampling.max_tokens, self._pad, whole), owners)
                uniforms = UniformStream(seed, (of or len(prompts)) * group_size, device, skip=before * group_size)
                where = torch.tensor(rows, device=device)
                decode(decoder, where, drawn, uniforms, stops, sampling, groups.finish, steps_unasked(device))
        return groups.rollout(sampling)

    @contextmanager
    def _decoders(self) -> Iterator[Callable[[Prefilled, Tensor], Decoder]]:
        """What makes a batch's decoder, for the weights as they are now."""
        if self.decoding == "eager":
            yield partial(GrowingDecoder, self.model)
            return
        if self._shell is None or not self._shell.fits(self.model):
            self._shell = Shell(self.model)
        with self._shell.rounded() as shell:
            yield partial(StaticDecoder, self.model, shell, self.decoding)

    @property
    def _pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return self.stops[0] if pad is None else pad


def _batches(prompts: int, group_size: int, max_rows: int) -> Iterator[list[int]]:
    """Row numbers of each batch: whole groups where one fits, so that each prompt is prefilled once."""
    whole = max_rows // group_size * group_size
    if whole:
        total = prompts * group_size
        yield from (list(range(start, min(start + whole, total))) for start in range(0, total, whole))
        return
    for b in range(prompts):
        rows = list(range(b * group_size, (b + 1) * group_size))
        yield from (rows[start : start + max_rows] for start in range(0, group_size, max_rows))
