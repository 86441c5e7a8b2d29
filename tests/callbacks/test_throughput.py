"""Rates and shares of a step: by hand from known seconds, and on real trainings, whose padding is known."""

from __future__ import annotations

from pathlib import Path

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from r1lit.callbacks.hardware import GPUS, Peak, forget_peak_memory, peak_memory, peak_of
from r1lit.callbacks.throughput import Throughput
from r1lit.data.demonstrations import Demonstration
from r1lit.data.module import StepBatch
from r1lit.models.loading import ModelSettings, load_policy
from r1lit.models.logprobs import head_of
from r1lit.models.packing import keeps_apart
from r1lit.modules.compute import Cost, Work
from r1lit.modules.grpo import GRPO
from r1lit.modules.settings import AlgorithmSettings, OptimizerSettings, SFTSettings
from r1lit.modules.sft import SFT
from r1lit.rollout.transformers_sampler import TransformersSampler
from r1lit.types import Prompt, Sampling, Scored

PEAK = Peak("here", tflops=2.0, bandwidth_gbs=4.0)


def test_rates_by_hand():
    callback = Throughput(PEAK)
    callback.computed.update(sample=100, update=250)
    callback.passes.update(sample=7)
    metrics = {"num_tokens": 60.0, "time/step": 10.0, "time/sample": 2.0, "time/update": 5.0, "time/logprobs": 0.0}
    work = {
        "sample": Work(flops=1e12, tokens=80, targets=60, weight_bytes=10**9, cache_bytes=1e9),
        "logprobs": Work(flops=0.0, tokens=0, targets=0),
        "update": Work(flops=5e12, tokens=200, targets=60),
    }
    assert callback.rates(metrics, work) == pytest.approx(
        {
            "perf/tokens_per_second": 6.0,
            "perf/sampled_tokens_per_second": 30.0,
            "perf/trained_tokens_per_second": 40.0,
            "perf/padding_sample": 0.2,
            "perf/padding_update": 0.2,
            "perf/mfu": 6e12 / 10 / 2e12,
            "perf/mfu_sample": 1e12 / 2 / 2e12,
            "perf/mfu_update": 5e12 / 5 / 2e12,
            "perf/mbu_sample": 8e9 / 2 / 4e9,
        }
    )


def test_what_is_not_known_is_left_out():
    callback = Throughput(Peak("cpu"))
    callback.computed.update(sample=79)  # an engine of its own sampled some of it
    metrics = {"num_tokens": 60.0, "time/step": 10.0, "time/sample": 2.0}
    work = {"sample": Work(flops=1e12, tokens=80, targets=60, weight_bytes=10**9, cache_bytes=1e9)}
    names = callback.rates(metrics, work).keys()
    assert names == {"perf/tokens_per_second", "perf/sampled_tokens_per_second"}


def prove(policy) -> None:
    """Let the proofs that a model's first passes need be over, so that no pass of theirs is counted."""
    head_of(policy)
    assert keeps_apart(policy)


def fit(module: lightning.LightningModule, batch, peak: Peak = PEAK) -> dict[str, float]:
    """One step in a real trainer; gives its metrics."""
    lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        callbacks=[Throughput(peak)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, DataLoader([StepBatch(0, batch)], batch_size=None, collate_fn=lambda batch: batch))
    return module.metrics


@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_fine_tuning_counts_the_padding_that_it_computed(packing):
    """Lengths 10, 6 and 4 make two rows of 10 when packed, and three when padded. The work is the same."""
    policy, _ = load_policy(ModelSettings())
    prove(policy)
    lengths = [10, 6, 4]
    batch = [Demonstration(tuple(range(5, 5 + n)), (False,) + (True,) * (n - 1)) for n in lengths]
    settings = SFTSettings(batch_size=3, micro_batch_tokens=64)
    module = SFT(policy, settings, OptimizerSettings(lr=1e-4), 1, 3, packing)
    found = fit(module, batch)
    assert found["perf/padding_update"] == pytest.approx(0.0 if packing == "packed" else 1 - 20 / 30)
    assert found["perf/flops"] == Cost.of(policy).training(torch.tensor(lengths), targets=17)
    assert found["perf/mfu"] == pytest.approx(found["perf/flops"] / found["time/step"] / 2e12)
    assert found["perf/trained_tokens_per_second"] == pytest.approx(20 / found["time/update"])
    assert not policy.get_input_embeddings()._forward_pre_hooks, "nothing is left at the model"


class Lengths:
    """Rewards the length, in this process."""

    def submit(self, index, group):
        pass

    def gather(self, rollout, progress=1.0):
        return Scored(rollout, ("length",), torch.tensor([1.0]), rollout.lengths[:, None].float())


def test_grpo_counts_what_each_phase_asks_for():
    policy, tokenizer = load_policy(ModelSettings())
    prove(policy)
    algorithm = AlgorithmSettings(
        steps=1, prompts_per_step=2, group_size=4, minibatches=2, micro_batch_tokens=4096, kl_coef=0.1
    )
    module = GRPO(
        policy, TransformersSampler(policy, tokenizer), Lengths(), algorithm, OptimizerSettings(lr=1e-4),
        Sampling(max_tokens=12), packing="padded", seed=3,
    )  # fmt: skip
    prove(module.reference)
    found = fit(module, [Prompt(ids=tuple(range(5, 5 + n)), raw=str(n)) for n in (7, 12)])
    rollout, cost = module.experience.scored.rollout, Cost.of(policy)
    drawn = rollout.lengths
    whole = drawn + torch.tensor([7] * 4 + [12] * 4)
    update, logprobs, sample = (module.work[phase] for phase in ("update", "logprobs", "sample"))
    assert update.tokens == int(whole.sum()) and update.targets == int(drawn.sum()) == found["num_tokens"]
    assert update.flops == cost.training(whole, int(drawn.sum()))
    # The sampler's own log-probs serve; the reference, which has parameters of its own, is asked once.
    assert (logprobs.tokens, logprobs.flops) == (update.tokens, cost.forward(whole, int(drawn.sum())))
    assert sample.tokens == 7 + 12 + int((drawn - 1).sum())
    assert found["perf/flops"] == update.flops + logprobs.flops + sample.flops
    # One pass of eight rows: padding is what the others are shorter by than the longest.
    assert found["perf/padding_logprobs"] == pytest.approx(1 - int(whole.sum()) / int(8 * whole.max()))
    assert 0 <= found["perf/padding_sample"] < 1 and found["perf/mbu_sample"] > 0


def test_the_most_memory_of_a_stretch():
    device = torch.device("cpu")
    forget_peak_memory(device)
    ((name, before),) = peak_memory(device).items()
    block = torch.ones(50_000_000)  # 0.2 GB
    held = peak_memory(device)[name]
    assert held - before > 0.15
    del block
    assert peak_memory(device)[name] > before + 0.15, "what was given back still counts"
    forget_peak_memory(device)
    if Path("/proc/self/clear_refs").exists():
        assert name == "perf/peak_rss_gb" and peak_memory(device)[name] < held - 0.15


def test_peaks_are_known_by_the_whole_name_or_given(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names.pop())
    names = ["NVIDIA H200 MIG 1g.18gb", "NVIDIA H200"]
    assert peak_of(torch.device("cuda")) == Peak("NVIDIA H200", 989, 4800)
    assert peak_of(torch.device("cuda")).tflops is None, "a part of a card is not the card"
    assert peak_of(torch.device("cpu")) == Peak("cpu") and peak_of(torch.device("cpu"), 1, 2) == Peak("cpu", 1, 2)
    assert all(tflops > 50 and bandwidth >= 300 for tflops, bandwidth in GPUS.values())
