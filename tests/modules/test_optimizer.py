"""The optimisers against float32 AdamW: what they hold, what they do, and that a resumed one goes on bit for bit."""

from __future__ import annotations

import random

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from r1lit.data.demonstrations import Demonstration
from r1lit.data.module import StepBatch
from r1lit.models.loading import ModelSettings, load_policy
from r1lit.modules.optimizer import apply_settings, build_optimizer
from r1lit.modules.settings import OptimizerSettings, SFTSettings
from r1lit.modules.sft import SFT
from r1lit.settings import ConfigError


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 64)).to(dtype)


def fitted(kind: str, updates: int = 50, dtype: torch.dtype = torch.float32, **settings):
    """A small regression after some updates; gives network, optimiser, schedule and loss."""
    model = network(dtype)
    optimizer, schedule = build_optimizer(model, OptimizerSettings(**{"kind": kind, "lr": 1e-3} | settings), updates)
    go_on(model, optimizer, schedule, updates)
    return model, optimizer, schedule


def go_on(model, optimizer, schedule, updates: int) -> None:
    data = torch.Generator().manual_seed(1)
    inputs, truth = torch.randn(256, 64, generator=data), torch.randn(64, 64, generator=data) / 8
    for _ in range(updates):
        optimizer.zero_grad()
        (model(inputs.to(model[0].weight.dtype)).float() - inputs @ truth).square().mean().backward()
        optimizer.step()
        schedule.step()


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().float().flatten() for parameter in model.parameters()])


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    def size(value: torch.Tensor) -> int:
        inner = value.__tensor_flatten__()[0] if hasattr(value, "__tensor_flatten__") else ()
        return sum(size(getattr(value, name)) for name in inner) or value.numel() * value.element_size()

    return sum(size(value) for state in optimizer.state.values() for value in state.values())


def test_8bit_moments_take_a_quarter_and_move_the_weights_alike():
    wide, wide_optimizer, _ = fitted("adamw", weight_decay=0.1)
    lean, lean_optimizer, _ = fitted("adamw_8bit", weight_decay=0.1)
    assert state_bytes(lean_optimizer) < 0.32 * state_bytes(wide_optimizer)
    start = flat(network())
    moved, expected = flat(lean) - start, flat(wide) - start
    assert torch.cosine_similarity(moved, expected, dim=0) > 0.99
    assert (moved - expected).norm() < 0.1 * expected.norm()
    groups = zip(lean_optimizer.param_groups, wide_optimizer.param_groups, strict=True)
    assert all(a["weight_decay"] == b["weight_decay"] and a["eps"] == b["eps"] for a, b in groups)


@pytest.mark.parametrize(("kind", "dtype"), [("adamw", torch.float32), ("adamw_8bit", torch.bfloat16)])
def test_a_resumed_optimizer_goes_on_bit_for_bit(tmp_path, kind, dtype):
    settings = {"schedule": "cosine", "warmup_steps": 2}
    whole, *_ = fitted(kind, 12, dtype, **settings)
    first = network(dtype)
    optimizer, schedule = build_optimizer(first, OptimizerSettings(kind=kind, lr=1e-3, **settings), 12)
    go_on(first, optimizer, schedule, 5)
    torch.save([first.state_dict(), optimizer.state_dict(), schedule.state_dict()], tmp_path / "state")
    torch.manual_seed(99)
    second = network(dtype)
    optimizer, schedule = build_optimizer(second, OptimizerSettings(kind=kind, lr=1e-3, **settings), 12)
    # As Lightning loads it.
    saved = torch.load(tmp_path / "state", map_location=lambda storage, location: storage, weights_only=True)
    for target, state in zip((second, optimizer, schedule), saved, strict=True):
        target.load_state_dict(state)
    apply_settings(optimizer, schedule, OptimizerSettings(kind=kind, lr=1e-3, **settings))
    go_on(second, optimizer, schedule, 7)
    assert torch.equal(flat(second), flat(whole))


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_settings_of_a_resumed_run_hold(kind):
    _, optimizer, schedule = fitted(kind, 4)
    apply_settings(optimizer, schedule, OptimizerSettings(kind=kind, lr=5e-4, weight_decay=0.2, betas=(0.8, 0.9)))
    assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx([5e-4, 5e-4])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.0]
    schedule.step()
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(5e-4)
    other = {"adamw": "adamw_8bit", "adamw_8bit": "adamw"}[kind]
    with pytest.raises(ConfigError, match=f"optimizer.kind={other}, but the checkpoint holds the state of {kind}; set"):
        apply_settings(optimizer, schedule, OptimizerSettings(kind=other))


def test_bfloat16_weights_are_rounded_at_random_or_refused():
    """Updates of 3e-6 on weights of 0.02 to 0.1, whose neighbours in bfloat16 are 1e-4 and more away."""
    with pytest.raises(ConfigError, match=r"optimizer.kind=adamw with weights in bfloat16: .* set model.dtype=float32"):
        build_optimizer(network(torch.bfloat16), OptimizerSettings(), 1)
    with pytest.raises(ConfigError, match="weights in float16"):
        build_optimizer(network(torch.float16), OptimizerSettings(kind="adamw_8bit"), 1)
    start = network(torch.bfloat16)
    plain = network(torch.bfloat16)
    lossy = torch.optim.AdamW(plain.parameters(), lr=3e-6, betas=(0.9, 0.95))
    go_on(plain, lossy, torch.optim.lr_scheduler.LambdaLR(lossy, lambda _: 1.0), 50)
    lean, *_ = fitted("adamw_8bit", 50, torch.bfloat16, lr=3e-6)
    wide, *_ = fitted("adamw", 50, lr=3e-6)
    expected = flat(wide) - flat(network())

    def share(model: nn.Module) -> float:
        """How far a model went in the direction that float32 weights take, as a share of their way."""
        return float((flat(model) - flat(start)) @ expected / expected.square().sum())

    assert share(plain) < 0.3
    assert share(lean) == pytest.approx(1.0, abs=0.15)


def demonstrations() -> list[Demonstration]:
    rng = random.Random(0)
    rows = [[rng.randrange(5, 40) for _ in range(12)] for _ in range(4)]
    return [Demonstration(tuple(row), tuple([True] * 12)) for row in rows]


@pytest.mark.parametrize(
    ("precision", "kind"), [("bf16-mixed", "adamw"), ("32-true", "adamw_8bit"), ("bf16-true", "adamw_8bit")]
)
def test_a_policy_learns_in_every_sound_precision(precision, kind):
    """Held weights are float32 unless asked for otherwise, and the log-probabilities are float32 in any case."""
    items, seen, dtypes = demonstrations(), [], set()
    policy, _ = load_policy(ModelSettings())
    module = SFT(policy, SFTSettings(batch_size=4), OptimizerSettings(kind=kind, lr=3e-3), 8, 4)
    losses = module.losses

    def watched(batch):
        for loss, sums in losses(batch):
            dtypes.add(loss.dtype)
            yield loss, sums

    module.losses = watched

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            seen.append(module.metrics["loss"])

    trainer = lightning.Trainer(
        accelerator="cpu",
        precision=precision,
        max_epochs=1,
        logger=False,
        callbacks=[Watch()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    steps = [StepBatch(step, items) for step in range(8)]
    trainer.fit(module, DataLoader(steps, batch_size=None, collate_fn=lambda batch: batch))
    assert dtypes == {torch.float32}
    assert {p.dtype for p in policy.parameters()} == {torch.bfloat16 if precision == "bf16-true" else torch.float32}
    assert {state["step"].dtype for state in trainer.optimizers[0].state.values()} == {torch.float32}
    assert seen[-1] < 0.6 * seen[0]
