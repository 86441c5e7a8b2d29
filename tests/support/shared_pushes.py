"""torchrun's program: a sharded policy pushed to an engine that the first process alone feeds, and a thread that draws.

Prints, for every process, what it has seen.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import nn

from r1lit.distributed.failing import PeerError
from r1lit.distributed.launch import join, launched, leave
from r1lit.distributed.plan import Sharding, prove_head
from r1lit.distributed.ranks import Ranks
from r1lit.models.loading import ModelSettings, load_policy
from r1lit.models.lora import LoraSettings, merged_weights
from r1lit.modules.sharing import SharedRewards, SharedSampler
from r1lit.rollout.transformers_sampler import TransformersSampler
from r1lit.rollout.vllm_sampler import Ask, OnSaid, Said, VLLMSampler
from r1lit.rollout.vllm_weights import NamedTensors, Received, digest
from r1lit.settings import UserError
from r1lit.types import Prompt, Sampling, Scored

GREEDY = Sampling(temperature=0.0, max_tokens=8)


class PlainEngine:
    """A model of its own, filled with what arrives; in other processes than the first, with what is there already.

    ``breaks`` after so many weights.
    """

    dtype, room, description = torch.float32, 512, "plain"

    def __init__(self, receives: bool, folder: Path):
        self.model, self.tokenizer = load_policy(ModelSettings(path="tiny"))
        self.receives, self.folder, self.breaks, self.version = receives, folder, None, ""

    def receive(self, weights: NamedTensors, version: str) -> Received:
        held = {}
        for number, (name, tensor) in enumerate(weights):
            if number == self.breaks:
                raise UserError("the network is down")
            held[name] = tensor.clone()
        self.model.load_state_dict(held, strict=False)
        torch.save(held, self.folder / "weights.pt")
        return Received(version, {name: digest(dict(self.model.named_parameters())[name]) for name in held})

    def complete(self, asks: Sequence[Ask], on_said: OnSaid) -> None:
        self.model.load_state_dict(torch.load(self.folder / "weights.pt"), strict=False)
        plain = TransformersSampler(self.model, self.tokenizer)
        for number, ask in enumerate(asks):
            rollout = plain.generate([Prompt(tuple(ask.ids), "")], 1, ask.sampling, seed=ask.seed)
            ids, mask = rollout.completion_ids[0], rollout.completion_mask[0]
            on_said(number, 0, Said(ids[mask].tolist(), rollout.logprobs[0, mask].tolist(), frozenset()))

    def sleep(self) -> None: ...

    def wake(self, what: str) -> None: ...


def update(policy: nn.Module, amount: float) -> None:
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1 + amount)


def failing(action, *arguments) -> str:
    try:
        action(*arguments)
    except UserError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def pushes(ranks: Ranks, folder: Path) -> dict:
    """What becomes of a push, of one that breaks off in the first process, and of the next."""
    policy, tokenizer = load_policy(ModelSettings(path="tiny"))
    prove_head(Sharding.of("cpu", ranks.size).apply(policy))
    engine = PlainEngine(ranks.first, folder)
    sampler = VLLMSampler(engine, policy, tokenizer, ranks)
    update(policy, 0.1)
    engine.breaks = 5
    broken = failing(sampler.load_weights, policy)
    engine.breaks = None
    sampler.load_weights(policy)
    rollout = sampler.generate([Prompt((5, 6, 7), "")], 1, GREEDY, seed=0)
    whole, _ = load_policy(ModelSettings(path="tiny"))
    update(whole, 0.1)
    expected = TransformersSampler(whole, tokenizer).generate([Prompt((5, 6, 7), "")], 1, GREEDY, seed=0)
    sampler._probe(policy)
    return {
        "version": sampler.version,
        "broken": broken,
        "same": rollout.groups[0].completion_ids == expected.groups[0].completion_ids,
    }


def adapters(ranks: Ranks, folder: Path) -> bool:
    """Whether a sharded policy's adapters arrive as those of a whole one are merged; a probe compares log-probs too."""
    settings = ModelSettings(path="tiny", lora=LoraSettings(rank=4))
    (policy, tokenizer), (whole, _) = (load_policy(settings) for _ in range(2))
    for model in (policy, whole):
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(std=0.1, generator=generator)
    prove_head(Sharding.of("cpu", ranks.size).apply(policy))
    VLLMSampler(PlainEngine(ranks.first, folder), policy, tokenizer, ranks)
    arrived, expected = torch.load(folder / "weights.pt"), dict(merged_weights(whole, tied=False))
    return arrived.keys() == expected.keys() and all(torch.equal(arrived[name], expected[name]) for name in expected)


class Broken(TransformersSampler):
    """Draws in the first process, and fails in the others."""

    def apart(self) -> Broken:
        return self

    def generate(self, *args, **options):
        if launched().rank:
            raise UserError("out of paper")
        return super().generate(*args, **options)


class Unjudged:
    """A reward of nothing."""

    def __init__(self):
        self.rewards = {}

    def gather(self, rollout, progress: float) -> Scored:
        return Scored(rollout, (), torch.ones(0), torch.zeros(len(rollout.completion_ids), 0))


def drawing(ranks: Ranks) -> str:
    """What a rollout beside the training ends in, where one process fails at its part while all else goes on."""
    shared = SharedSampler(Broken(*load_policy(ModelSettings(path="tiny"))), ranks, torch.device("cpu")).apart()
    prompts = [Prompt((5, 6, 7), "")] * 2

    def draw() -> Scored:
        return SharedRewards(Unjudged()).gather(shared.generate(prompts, 1, GREEDY, seed=0))

    with ThreadPoolExecutor(1) as thread:
        drawn = [thread.submit(draw) for _ in range(2)]
        assert all(ranks.gather(number) == [number] * ranks.size for number in range(50))
        assert all(isinstance(one.exception(), PeerError if ranks.first else UserError) for one in drawn)
        return failing(drawn[1].result)


if __name__ == "__main__":
    join()
    here = Ranks(launched().rank, launched().size, lockstep=True)
    folder = Path(sys.argv[1])
    seen = pushes(here, folder) | {"adapters": adapters(here, folder), "drawing": drawing(here)}
    print(json.dumps({"rank": here.rank, **seen}), flush=True)
    leave()
