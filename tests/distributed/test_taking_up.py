"""Runs that go on from shards of adapters, and of moments in 8 bits, in as many processes, in more and in fewer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from composing import run_of
from safetensors.torch import load_file
from shared_runs import run_cases, share_cases
from torch import distributed

from r1lit.callbacks.checkpointing import checkpoints
from r1lit.distributed.shards import stored_names, stored_shapes
from r1lit.models.adapters import CONFIG
from r1lit.models.loading import ModelSettings, load_policy
from r1lit.settings import ConfigError
from r1lit.stages.training import require_fitting

# Every run of the module is made for its first test.
pytestmark = pytest.mark.timeout(600)

SFT = (
    "trainer.accelerator=cpu",
    "logger=none",
    "experiment=sft",
    "sft.batch_size=5",
    "sft.micro_batch_tokens=100",
    "trainer.checkpoint_every=1",
    "evaluation.enabled=false",
    "optimizer.schedule=constant",
    # Adam divides by what a gradient was, however small: with its usual epsilon it makes a rounding into a step.
    "optimizer.eps=1e-4",
)
LORA = ("model.lora.rank=4", "model.lora.merge=false", "optimizer.lr=1e-2")
LEAN = ("optimizer.kind=adamw_8bit", "optimizer.lr=1e-3")
SHARDS = "trainer=fsdp"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Iterator[Path]:
    """A folder of runs of two steps: ``alone`` in one process, ``whole`` in two, ``again`` in two that start anew
    between the steps, ``grown`` in one at first, ``shrunk`` in one at last."""
    folder = tmp_path_factory.mktemp("runs")
    path = folder / "demonstrations.jsonl"
    path.write_text("".join(f'{{"prompt": "What is {n}+1?", "response": "{n + 1}{"." * n}"}}\n' for n in range(13)))
    common = (*SFT, f"data.path={path}")
    lora, lean = (*common, *LORA), (*common, *LEAN)
    half = (*lora, "model.dtype=bfloat16")
    two, one = ("sft.steps=2",), ("sft.steps=1",)
    run_cases(
        folder,
        {
            "lora_alone": (*lora, *two),
            "half_alone": (*half, *two),
            "lean_alone": (*lean, *two),
            "lean_grown": (*lean, SHARDS, *one),
        },
    )
    share_cases(
        folder,
        {
            "lora_whole": (*lora, SHARDS, *two),
            "half_whole": (*half, SHARDS, *two),
            "lean_whole": (*lean, SHARDS, *two),
            "lean_again": (*lean, SHARDS, *one),
            "lean_ddp": (*lean, "trainer=ddp", *two),
        },
        {name: (*lean, SHARDS, *two, f"resume={folder / name}") for name in ("lean_again", "lean_grown")},
    )
    for name, how in (("lora", lora), ("lean", lean)):
        shrunk = shutil.copytree(folder / f"{name}_whole", folder / f"{name}_shrunk")
        shutil.rmtree(checkpoints(shrunk)[-1])
        run_cases(folder, {shrunk.name: (*how, SHARDS, *two, f"resume={shrunk}")})
    yield folder
    distributed.destroy_process_group()


def weights(run: Path) -> dict[str, torch.Tensor]:
    (file,) = (run / "model").glob("*.safetensors")
    return load_file(file)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_checkpoint_of_adapters_holds_nothing_else_and_any_number_goes_on_from_it(runs):
    for checkpoint in checkpoints(runs / "lora_whole"):
        shapes = stored_shapes(checkpoint, "model.")
        assert len(shapes) == 28 and all("lora_" in name for name in shapes)
        assert sum(shape.numel() for shape in shapes.values()) == 23_552
    alone = runs / "lora_alone"
    for run in (runs / "lora_whole", runs / "lora_shrunk"):
        torch.testing.assert_close(weights(run), weights(alone), rtol=1e-5, atol=1e-5)
        assert (run / "model" / CONFIG).read_text() == (alone / "model" / CONFIG).read_text()


def test_an_export_is_of_the_adapters_in_the_shards(runs):
    expected = weights(runs / "lora_whole")
    shutil.rmtree(runs / "lora_whole" / "model")
    data, on = f"data.path={runs / 'demonstrations.jsonl'}", f"resume={runs / 'lora_whole'}"
    run_cases(runs, {"lora_whole": (*SFT, *LORA, data, on, "stage=export")})
    assert same(weights(runs / "lora_whole"), expected)


def test_adapters_are_float32_on_a_base_of_half_precision(runs):
    """In one group of shards two kinds of numbers; other rows in a pass are rounded otherwise."""
    expected, found = weights(runs / "half_alone"), weights(runs / "half_whole")
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    # B is 0 at first, and so is wholly what was learnt.
    names = [name for name in expected if "lora_B" in name]
    expected, found = (torch.cat([state[name].flatten() for name in names]) for state in (expected, found))
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_8_bit_moments_are_taken_up_bit_for_bit_by_as_many(runs):
    names = stored_names(checkpoints(runs / "lean_whole")[-1])
    assert any(name.endswith("exp_avg.part1.codes") for name in names)
    assert same(weights(runs / "lean_again"), weights(runs / "lean_whole"))


@pytest.mark.parametrize("name", ["ddp", "whole", "shrunk", "grown"])
def test_8_bit_moments_move_the_weights_alike_in_any_number_of_processes(runs, name):
    """All but the rounding of the moments is exact, and small matrices are rounded in one process alone."""
    alone = weights(runs / "lean_alone")
    states = (load_policy(ModelSettings())[0].state_dict(), alone, weights(runs / f"lean_{name}"))
    start, expected, found = (torch.cat([state[key].flatten() for key in alone]) for state in states)
    assert (found - expected).norm() < 2e-3 * (expected - start).norm()


def test_another_optimiser_does_not_go_on_and_says_so_before_anything_is_loaded(runs):
    data = f"data.path={runs / 'demonstrations.jsonl'}"
    run = run_of(runs / "lean_whole", *SFT, SHARDS, data, "optimizer.kind=adamw")
    with pytest.raises(ConfigError, match=r"kind=adamw, but the checkpoint holds the state of adamw_8bit; set"):
        require_fitting(run, checkpoints(runs / "lean_whole")[-1])
