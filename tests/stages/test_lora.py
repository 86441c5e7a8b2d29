"""Training adapters: by GRPO, fine-tuning and as a reward model, saved, resumed and exported."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from rich.console import Console
from safetensors.torch import load_file

from r1lit.__main__ import config_directory
from r1lit.callbacks.checkpointing import checkpoints
from r1lit.callbacks.recorder import read_metrics
from r1lit.models.loading import ModelSettings, load_policy
from r1lit.models.logprobs import completion_logprobs
from r1lit.models.packing import Packed
from r1lit.settings import ConfigError, UserError
from r1lit.stages.dispatch import STAGES
from r1lit.stages.run import read
from r1lit.stages.summary import Summary

GRPO = (
    "data.limit=200",
    "algorithm.steps=3",
    "algorithm.prompts_per_step=4",
    "algorithm.group_size=4",
    "preflight.enabled=false",
    "evaluation.enabled=false",
    "trainer.checkpoint_every=1",
    "trainer.keep_checkpoints=3",
    "model.lora.rank=4",
    "optimizer.lr=1e-2",
)
SFT = (
    "experiment=sft",
    "sft.steps=12",
    "sft.batch_size=8",
    "data.validation=0.1",
    "trainer.checkpoint_every=6",
    "model.lora.rank=4",
    "optimizer.lr=2e-2",
)


def ran(folder: Path, *overrides: str) -> str:
    """What a stage, run in this process, shows in the terminal."""
    GlobalHydra.instance().clear()
    folder.mkdir(exist_ok=True)
    with initialize_config_dir(config_directory(), version_base="1.3"):
        config = OmegaConf.to_container(compose("config", ["logger=none", *overrides]), resolve=True)
    out = Console(file=io.StringIO(), width=120)
    STAGES[config["stage"]](read(config, folder), Summary(folder, out))
    return out.file.getvalue()


def resumed(folder: Path, fresh: Path, upto: int, *overrides: str) -> None:
    """A copy of a run goes on from an earlier one of its checkpoints."""
    shutil.copytree(folder, fresh)
    shutil.rmtree(fresh / "model")
    for path in checkpoints(fresh):
        if int(path.stem.removeprefix("step_")) > upto:
            path.unlink()
    ran(fresh, *overrides, f"resume={fresh}")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def timeless(folder: Path) -> list[dict]:
    """The metrics of every step, without what depends on the clock."""
    rows = read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in row.items() if not name.startswith(("time/", "perf/"))} for row in rows]


@pytest.fixture(scope="module")
def grpo(tmp_path_factory) -> Path:
    """A short run whose reference is refreshed after its second step."""
    folder = tmp_path_factory.mktemp("grpo")
    shown = ran(folder, *GRPO, "algorithm.reference_refresh=2", "algorithm.kl_coef=0.1")
    assert "23,552 of 627,072 parameters are trained (3.8%)" in shown
    return folder


def test_grpo_trains_adapters_and_the_kl_is_to_the_base(grpo):
    first, second, third = timeless(grpo)
    assert 0 < first["kl"] < second["kl"]
    assert all(row["grad_norm"] > 0 for row in (first, second, third))
    # The reference is the base, then a copy of the policy as it was after the second step.
    for path, refreshed in zip(checkpoints(grpo), (False, True, True), strict=True):
        state = torch.load(path, weights_only=True)["state_dict"]
        assert bool(state["reference.refreshed"]) is refreshed
    policy = torch.load(checkpoints(grpo)[1], weights_only=True)["state_dict"]
    policy = [value for name, value in policy.items() if name.startswith("policy.")]
    held = [value for name, value in state.items() if name.startswith("reference.adapters.")]
    assert len(held) == 28 and all(torch.equal(*pair) for pair in zip(held, policy, strict=True))
    base = load_policy(ModelSettings())[0].state_dict()
    trained = weights(grpo)
    changed = {name for name in trained if not torch.equal(trained[name], base[name])}
    assert changed == {name for name in base if name.endswith("_proj.weight")}


def test_checkpoints_hold_the_adapters_and_their_optimiser(grpo, tmp_path):
    saved = torch.load(checkpoints(grpo)[-1], weights_only=True)
    assert all("lora_" in name or name.startswith("reference.") for name in saved["state_dict"])
    assert len(saved["optimizer_states"][0]["state"]) == 28
    # The policy, its reference and two states of the optimiser, 4 bytes each, and little else.
    numbers = 4 * 4 * 23_552
    assert numbers < checkpoints(grpo)[-1].stat().st_size < numbers + 100_000
    ran(tmp_path, *GRPO, "model.lora.rank=0", "algorithm.kl_coef=0.1", "algorithm.steps=1", "optimizer.lr=1e-4")
    assert checkpoints(tmp_path)[-1].stat().st_size > 4 * 4 * 603_520


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(grpo, tmp_path):
    """From before the refresh and from after it."""
    for upto in (1, 2):
        fresh = tmp_path / str(upto)
        resumed(grpo, fresh, upto, *GRPO, "algorithm.reference_refresh=2", "algorithm.kl_coef=0.1")
        assert timeless(fresh) == timeless(grpo)
        assert same(weights(fresh), weights(grpo))


def test_an_export_of_a_checkpoint_is_merged_or_not(grpo, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(grpo, folder)
    for merge in ("true", "false"):
        shutil.rmtree(folder / "model")
        ran(folder, *GRPO, "stage=export", f"resume={folder}", f"model.lora.merge={merge}")
        if merge == "true":
            assert same(weights(folder), weights(grpo))
    assert (folder / "model" / "adapter_model.safetensors").stat().st_size < 4 * 23_552 + 10_000
    loaded = load_policy(ModelSettings(path=str(folder / "model")))[0].state_dict()
    for name, value in weights(grpo).items():
        torch.testing.assert_close(loaded[name], value, rtol=1e-5, atol=1e-6)


def test_a_run_does_not_go_on_with_other_parameters(grpo, tmp_path):
    for other in ("model.lora.rank=2", "model.lora.rank=0"):
        with pytest.raises(UserError, match="holds other parameters than this run trains"):
            resumed(grpo, tmp_path / other[-1], 1, *GRPO, other)


def demonstrations(folder: Path) -> str:
    path = folder / "demonstrations.jsonl"
    rows = [
        {"prompt": f"What is {a}+{b}?", "response": f"<think> {a} plus {b} </think> <answer> {a + b} </answer>"}
        for a in range(10)
        for b in range(10)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"data.path={path}"


@pytest.mark.parametrize("quantization", ["null", "nf4"])
def test_fine_tuning_learns_and_resumes_to_the_same_bits(tmp_path, quantization):
    how = (*SFT, demonstrations(tmp_path), f"model.quantization={quantization}")
    ran(tmp_path / "run", *how)
    held_out = json.loads((tmp_path / "run" / "summary.json").read_text())["held_out"]
    assert held_out["after"]["loss"] < 0.7 * held_out["before"]["loss"]
    resumed(tmp_path / "run", tmp_path / "again", 6, *how)
    assert timeless(tmp_path / "again") == timeless(tmp_path / "run")
    assert same(weights(tmp_path / "again"), weights(tmp_path / "run"))


def test_a_reward_model_is_trained_by_adapters_and_its_head(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"Item {n}?", "chosen": f"Please wash it, item {n}.", "rejected": f"Go away now, item {n}."}
        for n in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    how = (
        "experiment=preference_model",
        "data=prompts",
        f"data.path={path}",
        "data.validation=0.2",
        "reward_model.steps=8",
        "reward_model.batch_size=8",
        "trainer.checkpoint_every=8",
        "model.lora.rank=4",
        "optimizer.lr=1e-2",
    )
    ran(tmp_path / "run", *how)
    held_out = json.loads((tmp_path / "run" / "summary.json").read_text())["held_out"]
    assert held_out["after"]["accuracy"] == 1 and held_out["after"]["loss"] < 0.3 * held_out["before"]["loss"]
    saved = torch.load(checkpoints(tmp_path / "run")[-1], weights_only=True)["state_dict"]
    assert len(saved) == 29 and "reward_model.score.weight" in saved
    first = weights(tmp_path / "run")
    ran(tmp_path / "run", *how, "stage=export", f"resume={tmp_path / 'run'}")
    assert same(weights(tmp_path / "run"), first)
    for stage in ("reward_model", "export"):
        with pytest.raises(ConfigError, match="a reward model's head is new and in no adapter"):
            ran(tmp_path / "run", *how, f"stage={stage}", f"resume={tmp_path / 'run'}", "model.lora.merge=false")


def test_the_command_trains_adapters(r1lit, tmp_path):
    """With what is typed and nothing else, and the adapters it leaves as the next command's model."""
    quick = ("data.limit=200", "algorithm.steps=1", "algorithm.prompts_per_step=4", "algorithm.group_size=4")
    off = ("preflight.enabled=false", "evaluation.enabled=false")
    done = r1lit(*quick, *off, "model.lora.rank=4", "model.lora.merge=false")
    (run,) = (tmp_path / "runs" / "r1_zero").iterdir()
    assert "23,552 of 627,072 parameters are trained (3.8%)" in done.stderr
    model = load_policy(ModelSettings(path=str(run / "model")))[0]
    ids, mask = torch.arange(12)[None], torch.ones(1, 11, dtype=torch.bool)
    assert completion_logprobs(model, Packed(ids, mask), mask, 1.0)[0].isfinite().all()
