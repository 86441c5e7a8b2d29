"""What a step asks of the arithmetic and of the memory: counted from lengths alone, packed or padded alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from r1lit.models.quantization import unpacked_size
from r1lit.modules.experience import Experience, row_lengths

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""What configs call the number of experts."""


@dataclass(frozen=True)
class Work:
    """What one phase of a step asks for.

    Attributes:
        flops: floating-point operations, as `Cost` counts them.
        tokens: that go through the model, padding left out; each as often as the phase needs it.
        targets: tokens that logits are made for.
        weight_bytes: of the weights that a decoding step reads; 0 where nothing is decoded.
        cache_bytes: of the keys and values that all decoding steps together read.
    """

    flops: float
    tokens: int
    targets: int
    weight_bytes: int = 0
    cache_bytes: float = 0.0


@dataclass(frozen=True)
class Cost:
    """What of a model decides what a pass costs.

    A forward pass costs ``2 * body * tokens + 2 * head * targets + sum over layers of 2 * width * pairs``: two
    operations a weight and token, where ``body`` are the weights of all matrices but embeddings and head (of experts,
    the share that a token is sent to) and ``targets`` the positions that logits are made for; and for each pair of a
    token with one that it attends to, itself included, two for each of the ``width = heads * (key + value size)``
    numbers that are multiplied. A causal sequence of n tokens has n (n + 1) / 2 pairs, fewer under a sliding window.
    The backward pass costs as much for the gradients of activations, and again for those of trained weights. With
    everything trained that is ``6 * N * tokens + 12 * layers * heads * head_dim * n**2 / 2`` a sequence.

    This is what PaLM's MFU counts (Chowdhery et al., arXiv 2204.02311, appendix B), less two things, which makes it
    smaller: of attention only the causal half is counted (as FlashAttention's benchmarks do), and the head only where
    it is applied. Norms, activations, the softmax, the optimiser, padding, and what checkpointing computes twice are
    not counted.

    Attributes:
        body: weights of the matrices that a token goes through.
        trained_body: those of them that are trained.
        head: weights of the head over the vocabulary.
        trained_head: those of it that are trained.
        attention: by sliding window (None: the whole past), the layers' query width and cache width, each in numbers a
            token, added up over layers.
        weight_bytes: of all weights that a decoding step reads.
    """

    body: float
    trained_body: float
    head: int
    trained_head: int
    attention: Mapping[int | None, tuple[int, int]]
    weight_bytes: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> Cost:
        """Read it off a model's parameters and its config."""
        config = model.config.get_text_config()
        output = model.get_output_embeddings()
        head = None if output is None else output.weight
        embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        active, body, trained, held = _active_experts(config), 0.0, 0.0, 0
        for name, parameter in model.named_parameters():
            if id(parameter) in embeddings and parameter is not head:
                continue
            held += parameter.numel() * parameter.element_size()
            if parameter is head or parameter.ndim < 2:
                continue
            weights = unpacked_size(parameter) * (active if ".experts." in name else 1.0)
            body += weights
            trained += weights if parameter.requires_grad else 0.0
        size = 0 if head is None else head.numel()
        return cls(body, trained, size, size if size and head.requires_grad else 0, _attention(config), held)

    def forward(self, ends: Tensor, targets: int, starts: Tensor | None = None) -> float:
        """FLOPs of a forward pass over sequences of ``ends`` int64 [n] tokens, of which the first ``starts`` int64 [n]
        (none by default) are in a cache, with logits for ``targets`` positions."""
        tokens = _tokens(ends, starts)
        return 2 * self.body * tokens + 2 * self.head * targets + self._attention_flops(ends, starts)

    def training(self, ends: Tensor, targets: int) -> float:
        """FLOPs of a forward and backward pass over whole sequences of ``ends`` int64 [n] tokens."""
        tokens = _tokens(ends)
        weights = (4 * self.body + 2 * self.trained_body) * tokens + (4 * self.head + 2 * self.trained_head) * targets
        return weights + 3 * self._attention_flops(ends)

    def cache_reads(self, starts: Tensor, ends: Tensor) -> float:
        """Numbers read from a cache where sequences of ``starts`` int64 [n] tokens grow to ``ends`` one by one."""
        return sum(width * attended_pairs(ends, window, starts) for window, (_, width) in self.attention.items())

    def _attention_flops(self, ends: Tensor, starts: Tensor | None = None) -> float:
        return 2.0 * sum(width * attended_pairs(ends, window, starts) for window, (width, _) in self.attention.items())


def attended_pairs(ends: Tensor, window: int | None = None, starts: Tensor | None = None) -> int:
    """How many pairs of a token and one that it attends to, itself included, causal sequences int64 [n] have.

    >>> attended_pairs(torch.tensor([4])), attended_pairs(torch.tensor([4]), window=2)
    (10, 7)
    >>> attended_pairs(torch.tensor([4]), starts=torch.tensor([3]))
    4
    """

    def up_to(lengths: Tensor) -> Tensor:
        within = lengths if window is None else lengths.clamp(max=window)
        return within * (within + 1) // 2 + (lengths - within) * within

    return int((up_to(ends) - (0 if starts is None else up_to(starts))).sum())


def training_work(model: PreTrainedModel, lengths: list[int], targets: int) -> dict[str, Work]:
    """The work of an update on sequences of these lengths, with so many positions that logits are made for."""
    flops = Cost.of(model).training(torch.tensor(lengths), targets)
    return {"update": Work(flops, tokens=sum(lengths), targets=targets)}


def step_work(cost: Cost, experience: Experience, annotated: int, epochs: int, cache_bytes: int) -> dict[str, Work]:
    """The work of a GRPO step, by phase: every row is sampled; trained ones also go through further forward passes and
    the update.

    Args:
        cost: of the policy; the reference costs what it costs.
        experience: what the step learnt from.
        annotated: forward passes for the log-probs of the sampling policy and of the reference.
        epochs: passes of the update.
        cache_bytes: of a number in the sampler's cache.
    """
    rollout = experience.scored.rollout
    completions, lengths, rows = rollout.lengths.cpu(), row_lengths(rollout).cpu(), experience.rows.cpu()
    tokens, targets = int(lengths[rows].sum()), int(completions[rows].sum())
    forward, training = cost.forward(lengths[rows], targets), cost.training(lengths[rows], targets)
    return {
        "sample": rollout_work(cost, lengths - completions, completions, rollout.group_size, cache_bytes),
        "logprobs": Work(annotated * forward, annotated * tokens, annotated * targets),
        "update": Work(epochs * training, epochs * tokens, epochs * targets),
    }


def rollout_work(cost: Cost, prompts: Tensor, completions: Tensor, group_size: int, cache_bytes: int) -> Work:
    """The work of sampling: each prompt is read once for its group, and every drawn token but the last is fed back.

    Args:
        cost: of the model that samples.
        prompts, completions: int64 [N], tokens of each row.
        group_size: G.
        cache_bytes: of a number in the cache.
    """
    asked, fed = prompts[::group_size], completions - 1
    targets = len(asked) + int(fed.sum())
    grown = prompts + fed
    return Work(
        flops=cost.forward(asked, len(asked)) + cost.forward(grown, int(fed.sum()), starts=prompts),
        tokens=int(asked.sum() + fed.sum()),
        targets=targets,
        weight_bytes=cost.weight_bytes,
        cache_bytes=cache_bytes * cost.cache_reads(prompts, grown),
    )


def _tokens(ends: Tensor, starts: Tensor | None = None) -> int:
    return int(ends.sum() - (0 if starts is None else starts.sum()))


def _active_experts(config: PreTrainedConfig) -> float:
    """The share of its experts that a token is sent to."""
    experts = next((count for name in EXPERTS if (count := getattr(config, name, None))), None)
    return getattr(config, "num_experts_per_tok", None) / experts if experts else 1.0


def _attention(config: PreTrainedConfig) -> dict[int | None, tuple[int, int]]:
    """By window: query and cache widths, added up over the layers. A chunk of Llama 4 counts as a window; layers
    that keep a state instead of keys and values count for nothing."""
    count = config.num_hidden_layers
    layers = getattr(config, "per_layer_config", None) or [config] * count
    kinds = getattr(config, "layer_types", None) or [_kind(layer) for layer in layers]
    widths: defaultdict[int | None, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for layer, kind in zip(layers, kinds, strict=True):
        heads = getattr(layer, "num_attention_heads", None)
        if kind not in WINDOWS or not heads:
            continue
        cached = getattr(layer, "num_key_value_heads", None) or heads
        size = getattr(layer, "head_dim", None) or layer.hidden_size // heads
        # Latent attention (DeepSeek) has keys and values of different sizes.
        both = (getattr(layer, "qk_head_dim", None) or size) + (getattr(layer, "v_head_dim", None) or size)
        window = None if WINDOWS[kind] is None else getattr(layer, WINDOWS[kind])
        query, cache = widths[window]
        widths[window] = query + heads * both, cache + cached * both
    return dict(widths)


WINDOWS: Mapping[str, str | None] = {
    "full_attention": None,
    "sliding_attention": "sliding_window",
    "chunked_attention": "attention_chunk_size",
}
"""transformers' kinds of layers with keys and values, and what their configs call the window."""


def _kind(config: PreTrainedConfig) -> str:
    """The kind of a layer whose config does not name it, as transformers' own caches infer it."""
    windows = (kind for kind, name in WINDOWS.items() if name and getattr(config, name, None) is not None)
    return next(windows, "full_attention")
