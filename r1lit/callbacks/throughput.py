"""How fast a step was, and how much of what the device can do it used."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from transformers import PreTrainedModel

from r1lit.callbacks.hardware import Peak, forget_peak_memory, peak_memory
from r1lit.distributed.ranks import ALONE
from r1lit.modules.compute import Work

SAMPLE, UPDATE = "sample", "update"
"""Phases that decode, and that train."""


class Throughput(Callback):
    """Adds ``time/step`` and ``perf/*`` to a step's metrics; stands before the callbacks that read them.

    A module says in ``work`` what each of its phases asked for, padding left out; the seconds it took are its timer's.
    What was really computed is counted where the models embed tokens: on the host, from shapes, without waiting for
    the device. Rates are of all processes together; padding and the memory's are told where there is one.

    ``perf/tokens_per_second``: ``num_tokens`` over the whole step. ``perf/sampled_tokens_per_second``: completion
    tokens over the sampling; ``perf/trained_tokens_per_second``: tokens that went through the update, prompts included,
    over the update. ``perf/mfu``: of the whole step, ``perf/mfu_<phase>`` of one: model FLOPs (see
    `r1lit.modules.compute.Cost`) over its seconds and the device's peak. ``perf/mbu_sample``: bytes of weights and of
    keys and values that decoding reads, over the sampling's seconds and the peak of the memory's bandwidth.
    ``perf/padding_<phase>``: the share of the tokens that the models computed which are padding, or rows that had
    finished.

    Args:
        peak: of the device; what is not known of it is left out.
    """

    def __init__(self, peak: Peak):
        self.peak = peak
        self.computed: Counter[str | None] = Counter()
        self.passes: Counter[str | None] = Counter()
        self._handles: list[Any] = []
        self._began = 0.0
        self.shared = False

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        models = (part for part in module.modules() if isinstance(part, PreTrainedModel))
        embeddings = {id(found): found for model in models if (found := model.get_input_embeddings()) is not None}

        def count(embedding: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            phase = module.timer.current
            self.computed[phase] += inputs[0].numel()
            self.passes[phase] += 1

        self._handles = [embedding.register_forward_pre_hook(count) for embedding in embeddings.values()]

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.computed.clear()
        self.passes.clear()
        forget_peak_memory(module.device)
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        seconds = time.perf_counter() - self._began
        self.shared = getattr(module, "ranks", ALONE).size > 1
        module.metrics |= {"time/step": seconds} | peak_memory(module.device)
        module.metrics |= self.rates(module.metrics, getattr(module, "work", {}))

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._unhook()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._unhook()

    def rates(self, metrics: dict[str, float], work: dict[str, Work]) -> dict[str, float]:
        """A step's ``perf/*`` from its seconds and tokens, and from what its phases asked for."""
        step, tokens = metrics["time/step"], metrics["num_tokens"]
        seconds = {phase: metrics.get(f"time/{phase}", 0.0) for phase in work}
        found = {"tokens_per_second": tokens / step}
        if seconds.get(SAMPLE):
            found["sampled_tokens_per_second"] = tokens / seconds[SAMPLE]
        if seconds.get(UPDATE):
            found["trained_tokens_per_second"] = work[UPDATE].tokens / seconds[UPDATE]
        # Where fewer tokens were seen than the lengths tell of, something else computed: an engine, a recorded graph.
        # With several processes the work is everyone's, and what was seen is this one's.
        seen = {p: part for p, part in work.items() if self.computed[p] >= part.tokens > 0 and not self.shared}
        found |= {f"padding_{phase}": 1 - part.tokens / self.computed[phase] for phase, part in seen.items()}
        if work and self.peak.tflops:
            speed = {phase: part.flops / seconds[phase] for phase, part in work.items() if seconds[phase]}
            found["mfu"] = sum(part.flops for part in work.values()) / step / (self.peak.tflops * 1e12)
            found |= {f"mfu_{phase}": flops / (self.peak.tflops * 1e12) for phase, flops in speed.items()}
        if SAMPLE in seen and seconds[SAMPLE] and self.peak.bandwidth_gbs:
            read = self.passes[SAMPLE] * work[SAMPLE].weight_bytes + work[SAMPLE].cache_bytes
            found["mbu_sample"] = read / seconds[SAMPLE] / (self.peak.bandwidth_gbs * 1e9)
        return {f"perf/{name}": value for name, value in found.items()}

    def _unhook(self) -> None:
        while self._handles:
            self._handles.pop().remove()
