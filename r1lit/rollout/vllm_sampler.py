"""A sampler on a vLLM engine, in this process or behind a server: what is common to both."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Protocol, Self
from uuid import uuid4

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from r1lit.distributed.failing import all_or_none, failures, require_all
from r1lit.distributed.plan import computing_device
from r1lit.distributed.ranks import ALONE, Ranks
from r1lit.models.attention import in_own_arithmetic
from r1lit.models.loading import stop_ids
from r1lit.models.logprobs import completion_logprobs
from r1lit.models.packing import Packed
from r1lit.rollout.decoding import Drawn
from r1lit.rollout.grouping import GroupCollector
from r1lit.rollout.sampler import OnGroup, require_drawable
from r1lit.rollout.vllm_weights import (
    Making,
    NamedTensors,
    Received,
    Sent,
    WeightPushError,
    named_weights,
    require_received,
)
from r1lit.types import Prompt, Rollout, Sampling

PROBED = (24, 8)
"""Tokens of the made-up prompt, and of its completion, that show whether the engine computes what the policy does."""

AGREE = {torch.float32: 5e-3, torch.bfloat16: 0.5, torch.float16: 0.1}
"""How far a log-prob of the probe may lie from the policy's, in nats, by the engine's arithmetic."""


@dataclass(frozen=True)
class Ask:
    """A prompt, and how its completions are drawn.

    Attributes:
        ids: the prompt's token ids.
        size: G, completions.
        seed: of the first; each further one has the next.
        sampling: how they are drawn.
        stops: ids that end a completion and belong to it.
    """

    ids: Sequence[int]
    size: int
    seed: int
    sampling: Sampling
    stops: Sequence[int]


@dataclass(frozen=True)
class Said:
    """One completion: its token ids, their log-probs under the distribution they were drawn from, and the versions of
    the weights that drew them."""

    ids: Sequence[int]
    logprobs: Sequence[float]
    versions: frozenset[str]


OnSaid = Callable[[int, int, Said], None]
"""Told of each finished completion: its prompt's number, its own within the group, and what it says."""


class Engine(Protocol):
    """What generates.

    Attributes:
        dtype: of its weights.
        room: positions of its cache for prompt and completion.
        receives: True where this process is to send it weights; a server that several share takes one's.
        description: what runs where, for the run's output.
    """

    dtype: torch.dtype
    room: int
    receives: bool
    description: str

    def complete(self, asks: Sequence[Ask], on_said: OnSaid) -> None: ...

    def receive(self, weights: NamedTensors, version: str) -> Received:
        """Take weights, forget what was computed with others, and say what is held then."""
        ...

    def sleep(self) -> None: ...

    def wake(self, what: str) -> None: ...


class VLLMSampler:
    """Draws completions with a vLLM engine, whose weights are pushed to it and compared with what was pushed.

    Args:
        engine: generates.
        policy: whose weights the engine gets, now and whenever `load_weights` is called.
        tokenizer: decodes completions, and says what ends one.
        ranks: the run's processes. Each has such a sampler, and all push together, also to one engine.

    Raises:
        WeightPushError: where the engine does not compute what the policy does.
        PeerError: where another process fails at its part of a push.
    """

    exact_logprobs = False

    def __init__(
        self, engine: Engine, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ranks: Ranks = ALONE
    ):
        self.engine, self.tokenizer, self.ranks = engine, tokenizer, ranks
        self.in_step = ranks.size > 1 or ranks.lockstep
        self.stops = stop_ids(policy, tokenizer)
        self._vocabulary = policy.get_input_embeddings().weight.shape[0]
        self._device = computing_device(policy)
        self._nonce, self._pushes = ranks.from_first(uuid4().hex[:8]), 0
        self.load_weights(policy)
        self._probe(policy)

    @property
    def description(self) -> str:
        return self.engine.description

    @property
    def room(self) -> int:
        """Positions for a prompt and its completion."""
        return self.engine.room

    @property
    def version(self) -> str:
        """The last push, named so that another trainer's is told from it."""
        return f"{self._nonce}-{self._pushes}"

    def apart(self) -> Self:
        """Itself: an engine has weights of its own."""
        return self

    def load_weights(self, policy: nn.Module) -> None:
        """Push ``policy``'s weights.

        Raises:
            WeightPushError: where the engine holds others afterwards.
        """
        self.push(named_weights(policy))

    def push(self, weights: NamedTensors) -> None:
        """Push weights under their checkpoint names, all of them, each once.

        Raises:
            WeightPushError: where the engine holds others afterwards.
        """
        self._pushes += 1
        making, error = Making(weights), None
        try:
            if self.engine.receives:
                sent = Sent(making, self.engine.dtype)
                self.engine.wake("weights")
                require_received(sent.digests, self.version, self.engine.receive(sent, self.version))
        except Exception as caught:
            if making.broken:
                # The others wait for this process to make a tensor with them, and hear of its end alone.
                raise
            error = caught
        if self.ranks.lockstep:
            # All make each tensor whole together: who sends nothing, or has failed, helps on to the last.
            deque(making, maxlen=0)
        require_all(failures(self.ranks, error), error)

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
            NonFiniteLogitsError: if the engine's logits are not finite.
            WeightPushError: if other weights than the last pushed ones drew a token.
        """
        remedy = "lower max_tokens, raise the engine's max_model_len, or drop the prompt"
        require_drawable(prompts, group_size, sampling, self.engine.room, "the engine's", remedy)
        pad = self.stops[0] if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id
        drawn = Drawn.empty(len(prompts) * group_size, sampling.max_tokens, pad, torch.device("cpu"))
        groups = GroupCollector(prompts, group_size, drawn, self.tokenizer, self.stops, on_group)

        def take(prompt: int, number: int, said: Said) -> None:
            row = prompt * group_size + number
            self._require_current(said)
            length = len(said.ids)
            drawn.ids[row, :length] = torch.tensor(said.ids)
            drawn.mask[row, :length] = True
            drawn.logprobs[row, :length] = torch.tensor(said.logprobs)
            groups.finish([row])

        asks = [
            Ask(prompt.ids, group_size, prompt_seed(seed, before + number), sampling, self.stops)
            for number, prompt in enumerate(prompts)
        ]
        with self._awake():
            self.engine.complete(asks, take)
        rollout = groups.rollout(sampling)
        tensors = ("completion_ids", "completion_mask", "logprobs")
        return replace(rollout, **{name: getattr(rollout, name).to(self._device) for name in tensors})

    @contextmanager
    def _awake(self) -> Iterator[None]:
        self.engine.wake("everything")
        try:
            yield
        finally:
            self.engine.sleep()

    def _require_current(self, said: Said) -> None:
        if said.versions - {self.version}:
            raise WeightPushError(
                f"the engine drew tokens with weights {', '.join(sorted(said.versions))}, but {self.version} were "
                "pushed last; nothing else may push to it while a run samples from it"
            )

    @torch.no_grad()
    def _probe(self, policy: PreTrainedModel) -> None:
        """Compare log-probs once: digests show that the weights arrived, not that the engine computes with them.

        The first push takes the way of all others, so the engine's initial weights, which are random, must be gone.
        """
        length, tokens = PROBED
        ids = [(17 * step + 5) % self._vocabulary for step in range(length)]
        found: list[Said] = []
        ask = Ask(ids, 1, 0, Sampling(temperature=0.0, max_tokens=tokens), self.stops)
        with all_or_none(self.ranks), self._awake():
            self.engine.complete([ask], lambda prompt, number, said: found.append(said))
        expected = _policy_logprobs(policy, ids, found[0].ids)
        apart = (expected - torch.tensor(found[0].logprobs)).abs().max().item()
        limit = AGREE[self.engine.dtype]
        with all_or_none(self.ranks):
            if not apart <= limit:
                raise WeightPushError(
                    f"the engine's log-probs lie {apart:.4g} nats from the policy's under the same weights, more than "
                    f"{limit} in {str(self.engine.dtype).removeprefix('torch.')}: it does not compute this model; use "
                    "rollout=transformers, or another release of vLLM"
                )


def prompt_seed(seed: int, number: int) -> int:
    """The seed of a prompt's first completion, below 2^62; those of one run are far apart.

    >>> prompt_seed(0, 1) == prompt_seed(0, 1), prompt_seed(0, 1) == prompt_seed(1, 0)
    (True, False)
    """
    return int.from_bytes(blake2b(f"{seed}/{number}".encode(), digest_size=8).digest(), "big") >> 2


def _policy_logprobs(policy: PreTrainedModel, prompt: Sequence[int], completion: Sequence[int]) -> Tensor:
    device = computing_device(policy)
    ids = torch.tensor([[*prompt, *completion]], device=device)
    target = torch.zeros(1, ids.shape[1] - 1, dtype=torch.bool, device=device)
    target[:, len(prompt) - 1 :] = True
    mask: Any = torch.ones(1, len(completion), dtype=torch.bool, device=device)
    with in_own_arithmetic(policy):
        logprobs, _ = completion_logprobs(policy, Packed(ids, target), mask, temperature=1.0)
    return logprobs[0].float().cpu()
