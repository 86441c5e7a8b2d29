from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from r1lit.__main__ import config_directory
from r1lit.rewards.pool import RewardPool
from r1lit.rewards.spec import RewardSettings
from r1lit.stages.preflight import NothingToLearnError, memory_estimate, preflight, require_signal
from r1lit.stages.run import Run, read
from r1lit.stages.setup import Workbench, workbench

SAMPLES = """
def flat(completions): return [0.25] * len(completions)
def silent(completions): return [None] * len(completions)
"""
QUICK = ("data.limit=200", "preflight.prompts=8", "algorithm.group_size=4")
ONLY = RewardSettings.model_validate


def run_of(*overrides: str) -> Run:
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_directory(), version_base="1.3"):
        config = compose("config", [*QUICK, *overrides])
    return read(OmegaConf.to_container(config, resolve=True), Path("unused"))


@pytest.fixture(scope="module")
def bench() -> Iterator[Workbench]:
    with workbench(run_of()) as bench:
        yield bench


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "preflight_samples.py").write_text(SAMPLES)
    return folder


def judged_by(bench: Workbench, plugins: Path, *names: str, **weights: float):
    """The pre-flight's figures under rewards of the sample file, and accuracy as a metric."""
    specs = {name: ONLY({"_target_": f"preflight_samples.{name}"}) for name in names}
    specs["accuracy"] = ONLY({"_target_": "r1lit.rewards.accuracy.accuracy", "weight": weights.get("accuracy", 0.0)})
    with RewardPool(specs, plugin_paths=[plugins]) as pool:
        return preflight(run_of(), replace(bench, rewards=pool))


def test_the_figures_of_the_tiny_model(bench):
    found = preflight(run_of(), bench)
    assert (found.prompts, found.group_size) == (8, 4)
    lengths = [len(prompt.ids) for prompt in bench.prompts.train]
    assert (found.shortest_prompt, found.longest_prompt) == (min(lengths), max(lengths))
    assert 0.1 < found.pass_1 < 0.8 and found.pass_1 <= found.pass_k <= 1
    assert found.varied_groups > 0.5 and found.truncated < 0.2
    assert found.mean_reward == pytest.approx(found.rewards["accuracy"] + found.rewards["format"])
    assert found.rewards["accuracy"] == pytest.approx(found.pass_1)
    json.dumps(found.figures(), allow_nan=False)
    require_signal(found, force=False)


def test_fewer_prompts_than_asked_for_are_all_tried(bench):
    few = replace(bench.prompts, sources={"few": bench.prompts.train[:3]}, weights={"few": 1.0})
    assert preflight(run_of(), replace(bench, prompts=few)).prompts == 3


def test_rewards_that_tell_nothing_apart_stop_the_run_with_figures_and_remedy(bench, plugins):
    found = judged_by(bench, plugins, "flat")
    assert found.varied_groups == 0 and found.varied_metric > 0
    with pytest.raises(NothingToLearnError) as caught:
        require_signal(found, force=False)
    for part in (
        "in 0 of 8 groups of 4",
        "means: flat 0.25, accuracy 0.",
        f"pass@1 {found.pass_1:.1%}",
        "it is the rewards that do not tell them apart",
        "or give accuracy a weight",
        "force=true",
    ):
        assert part in str(caught.value)
    require_signal(found, force=True)
    require_signal(judged_by(bench, plugins, "flat", accuracy=1.0), force=False)


def test_the_advice_fits_the_cause(bench, plugins):
    silent = judged_by(bench, plugins, "silent")
    assert silent.rewards["silent"] is None
    json.dumps(silent.figures(), allow_nan=False)
    causes = {
        "No reward gave a verdict": replace(silent, rewards={"silent": None}),
        "use harder prompts": replace(silent, pass_1=1.0, varied_metric=0.0),
        "Use easier prompts": replace(silent, pass_1=0.0, varied_metric=0.0),
    }
    for advice, found in causes.items():
        with pytest.raises(NothingToLearnError, match=advice):
            require_signal(found, force=False)


def test_the_memory_is_that_of_a_count_by_hand(bench):
    """Weights, gradients, two moments and a reference of float32, and what 4096 tokens keep for the backward pass."""
    parameters = bench.policy.num_parameters()
    config = bench.policy.config
    kept = 4 * 4096 * config.hidden_size * config.num_hidden_layers
    with_reference = memory_estimate(run_of(), bench, 22)
    assert 5 * 4 * parameters + 4 * kept < with_reference < 5 * 4 * parameters + 64 * kept
    without = memory_estimate(run_of("algorithm.kl_coef=0"), bench, 22)
    assert with_reference - without == pytest.approx(4 * parameters, rel=0.1)
    cached = run_of("rollout.max_batch_rows=100000", "algorithm.prompts_per_step=4096")
    assert memory_estimate(cached, bench, 22) > 5 * with_reference


def test_a_run_that_cannot_learn_stops_unless_forced(r1lit, tmp_path):
    (tmp_path / "plugins" / "conf" / "reward").mkdir(parents=True)
    (tmp_path / "plugins" / "one.py").write_text("def one(completions):\n    return [1.0] * len(completions)\n")
    (tmp_path / "plugins" / "conf" / "reward" / "one.yaml").write_text("one:\n  _target_: one.one\n")
    options = (
        *QUICK,
        "reward=[one,accuracy]",
        "reward.accuracy.weight=0",
        "algorithm.steps=1",
        "algorithm.prompts_per_step=2",
        "evaluation.enabled=false",
    )
    stopped = r1lit(*options, check=False)
    assert stopped.returncode == 1 and "Traceback" not in stopped.stderr
    assert "r1lit: nothing to learn: in 0 of 8 groups of 4" in stopped.stderr
    assert "means: one 1, accuracy 0." in stopped.stderr and "force=true" in stopped.stderr
    (summary,) = [json.loads(path.read_text()) for path in tmp_path.glob("runs/r1_zero/*/summary.json")]
    assert summary["status"] == "stopped" and "nothing to learn" in summary["reason"]
    assert summary["preflight"]["varied_groups"] == 0
    r1lit(*options, "force=true", "name=forced")
    (summary,) = [json.loads(path.read_text()) for path in tmp_path.glob("runs/forced/*/summary.json")]
    assert summary["status"] == "finished" and summary["steps"] == 1
