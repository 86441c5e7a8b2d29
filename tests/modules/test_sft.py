"""Fine-tuning as a whole, on a small policy: loss and gradient against transformers' and TRL's own, and training."""

from __future__ import annotations

import math
import random

import lightning
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from trl import SFTConfig, SFTTrainer

from r1lit.data.demonstrations import Demonstration
from r1lit.data.module import StepBatch
from r1lit.models.loading import ModelSettings, load_policy
from r1lit.modules.settings import OptimizerSettings, SFTSettings
from r1lit.modules.sft import SFT, demonstration_figures
from r1lit.modules.update import TrainingDivergedError
from r1lit.text.turns import TurnEncoder

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def demonstrations(count: int, seed: int = 0) -> list[Demonstration]:
    """Sums told in words, of several lengths; their ids are the embedded model's."""
    _, tokenizer = load_policy(ModelSettings(path="tiny"))
    encoder, rng, made = TurnEncoder(tokenizer), random.Random(seed), []
    for _ in range(count):
        digits = [rng.randint(0, 2) for _ in range(rng.randint(2, 4))]
        thought = ", ".join(WORDS[sum(digits[: n + 1])] for n in range(len(digits)))
        reply = f"<think> {thought} </think> <answer> {sum(digits)} </answer>"
        encoded = encoder.encode_answer("+".join(map(str, digits)) + " ?", reply)
        made.append(Demonstration(encoded.ids, encoded.trained))
    return made


def build(lr: float = 1e-3, steps: int = 2, rows: int = 8, packing: str = "auto", **settings) -> SFT:
    policy, _ = load_policy(ModelSettings(path="tiny"))
    return SFT(policy, SFTSettings(**{"batch_size": 8, **settings}), OptimizerSettings(lr=lr), steps, rows, packing)


def train(module: SFT, batches, after_step=lambda module: None) -> None:
    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            after_step(module)

    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        callbacks=[Watch()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    steps = [StepBatch(step, batch) for step, batch in enumerate(batches)]
    trainer.fit(module, DataLoader(steps, batch_size=None, collate_fn=lambda batch: batch))


def gradients(module: SFT, items) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradient of one update, accumulated over its micro-batches."""
    module.zero_grad()
    total = 0.0
    for loss, _ in module.losses(items):
        loss.backward()
        total += loss.item()
    return total, [parameter.grad.clone() for parameter in module.policy.parameters()]


def padded(items) -> dict[str, torch.Tensor]:
    """A batch as transformers' trainers make it: padded, masked, with labels."""
    width = max(len(item.ids) for item in items)
    return {
        "input_ids": torch.tensor([[*item.ids, *[0] * (width - len(item.ids))] for item in items]),
        "attention_mask": torch.tensor([[1] * len(item.ids) + [0] * (width - len(item.ids)) for item in items]),
        "labels": torch.tensor(
            [
                [n if flag else -100 for n, flag in zip(item.ids, item.trained, strict=True)]
                + [-100] * (width - len(item.ids))
                for item in items
            ]
        ),
    }


@pytest.mark.parametrize("normalize", ["tokens", "constant"])
@pytest.mark.parametrize(
    ("packing", "tokens"), [("packed", 4096), ("auto", 60), ("padded", 4096), ("padded", 60), ("padded", 1)]
)
def test_loss_and_gradient_are_transformers_own(normalize, packing, tokens):
    items = demonstrations(8)
    module = build(packing=packing, micro_batch_tokens=tokens, normalize=normalize, tokens_per_sample=20)
    loss, ours = gradients(module, items)
    divisor = 8 * 20 if normalize == "constant" else sum(sum(item.trained) for item in items)
    module.zero_grad()
    expected = module.policy(**padded(items), num_items_in_batch=divisor).loss
    expected.backward()
    if normalize == "tokens":
        torch.testing.assert_close(module.policy(**padded(items)).loss, expected)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    largest = max(parameter.grad.abs().max().item() for parameter in module.policy.parameters())
    for mine, parameter in zip(ours, module.policy.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=0, atol=1e-5 * largest)


def test_one_update_is_trls(tmp_path):
    """The loss, its metrics and the weights after two steps, against TRL's own trainer on the same rows."""
    items = demonstrations(8)
    policy, tokenizer = load_policy(ModelSettings(path="tiny"))
    rows = [{"input_ids": list(item.ids), "completion_mask": list(map(int, item.trained))} for item in items]
    arguments = SFTConfig(
        output_dir=str(tmp_path),
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_steps=2,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        # A smaller one would blow up what rounding leaves of gradients that are next to nothing.
        adam_epsilon=1e-4,
        weight_decay=0.0,
        max_grad_norm=1.0,
        logging_steps=1,
        save_strategy="no",
        completion_only_loss=True,
        # transformers' own loss; TRL's default computes the same in chunks of the head.
        loss_type="nll",
    )
    trainer = SFTTrainer(policy, arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.train()
    theirs = trainer.state.log_history
    module, seen = build(), []
    module.optimizer = OptimizerSettings(lr=1e-3, eps=1e-4)
    train(module, [items, items], lambda module: seen.append(dict(module.metrics)))
    for mine, own in zip(seen, theirs, strict=False):
        assert mine["loss"] == pytest.approx(own["loss"], rel=1e-3)
        assert mine["grad_norm"] == pytest.approx(own["grad_norm"], rel=1e-3)
        assert mine["lr"] == pytest.approx(own["learning_rate"])
        # TRL averages these over its batches, whatever number of tokens they hold.
        assert mine["mean_token_accuracy"] == pytest.approx(own["mean_token_accuracy"], rel=0.02)
        assert mine["entropy"] == pytest.approx(own["entropy"], rel=0.02)
    assert {"loss", "grad_norm", "mean_token_accuracy", "entropy", "num_tokens", "epoch"} <= {*seen[0]} & {*theirs[0]}
    for a, b in zip(module.policy.parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_the_figures_by_hand():
    items = demonstrations(5, seed=3)
    module = build()
    batch = padded(items)
    with torch.no_grad():
        lines = module.policy(batch["input_ids"]).logits[:, :-1].log_softmax(-1)
    labels = batch["labels"][:, 1:]
    flags = labels != -100
    loss = -lines.gather(-1, labels.clamp(min=0)[..., None])[..., 0][flags].double().mean().item()
    for packing in ("packed", "padded"):
        settings = SFTSettings(micro_batch_tokens=100)
        assert demonstration_figures(module.policy, items, settings, packing) == {
            "loss": pytest.approx(loss, rel=1e-5),
            "perplexity": pytest.approx(math.exp(loss), rel=1e-5),
            "mean_token_accuracy": pytest.approx((lines.argmax(-1) == labels)[flags].float().mean().item()),
            "entropy": pytest.approx(-(lines.exp() * lines).sum(-1)[flags].mean().item(), rel=1e-4),
            "trained_tokens": int(flags.sum()),
            "demonstrations": 5,
        }


def test_training_learns_the_demonstrations():
    items, seen = demonstrations(8), []
    module = build(lr=3e-3, steps=12)
    train(module, [items] * 12, lambda module: seen.append(dict(module.metrics)))
    assert seen[-1]["loss"] < 0.3 * seen[0]["loss"]
    assert seen[-1]["mean_token_accuracy"] > seen[0]["mean_token_accuracy"]
    assert [step["epoch"] for step in seen] == list(range(1, 13))
    assert seen[0]["num_tokens"] == sum(len(item.ids) for item in items)
    assert seen[0]["updates_skipped"] == 0 and seen[0]["perf/flops"] > 0
    assert demonstration_figures(module.policy, items, module.settings)["loss"] < seen[-1]["loss"]


def test_raw_text_can_be_learnt():
    _, tokenizer = load_policy(ModelSettings(path="tiny"))
    encoded = TurnEncoder(tokenizer).encode_text("What is three plus four?")
    items, seen = [Demonstration(encoded.ids, encoded.trained)] * 2, []
    train(build(lr=3e-3, steps=6), [items] * 6, lambda module: seen.append(module.metrics["loss"]))
    assert seen[-1] < 0.7 * seen[0]


def test_an_update_that_is_not_finite_is_skipped_then_stops_the_run():
    module = build(max_skipped_updates=2, steps=3)
    before = [p.detach().clone() for p in module.policy.parameters()]
    losses = module.losses
    module.losses = lambda items: ((loss * math.nan, sums) for loss, sums in losses(items))
    seen = []
    with pytest.raises(TrainingDivergedError, match=r"2 updates in a row.*set sft\.max_grad_norm"):
        train(module, [demonstrations(2)] * 3, lambda module: seen.append(module.metrics["updates_skipped"]))
    assert seen == [1.0]
    assert all(torch.equal(a, b) for a, b in zip(before, module.policy.parameters(), strict=True))


def test_a_checkpoint_tells_what_ends_an_answer():
    module, checkpoint = build(), {}
    module.policy.generation_config.eos_token_id = [3, 4]
    module.on_save_checkpoint(checkpoint)
    assert checkpoint == {"stop_ids": [3, 4]}
