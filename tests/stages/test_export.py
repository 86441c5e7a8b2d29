from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM

from r1lit.__main__ import composed, config_directory
from r1lit.settings import ConfigError
from r1lit.stages.dispatch import run_stage
from r1lit.stages.run import Run, read
from r1lit.stages.setup import load_model


def run_of(folder: Path, *overrides: str) -> Run:
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_directory(), version_base="1.3"):
        config = compose("config", ["stage=export", *overrides])
    return read(OmegaConf.to_container(config, resolve=True), folder)


@pytest.fixture
def saved(tmp_path: Path) -> dict[str, torch.Tensor]:
    """Two checkpoints in the form that training leaves them; the newer one's policy."""
    policy, _ = load_model(run_of(tmp_path).model)
    (tmp_path / "checkpoints").mkdir()
    for step, shift in ((9, 0.5), (10, 1.0)):
        state = {f"policy.{name}": value + shift for name, value in policy.state_dict().items()}
        state["reference.model.norm.weight"] = torch.zeros(3)
        torch.save({"state_dict": state}, tmp_path / "checkpoints" / f"step_{step:06d}.ckpt")
    return {name: value + 1.0 for name, value in policy.state_dict().items()}


def test_the_newest_checkpoints_policy_is_written_and_the_runs_ending_stays(tmp_path, saved):
    (tmp_path / "summary.json").write_text(json.dumps({"status": "stopped", "reason": "stopped by SIGTERM"}))
    run_stage(run_of(tmp_path, f"resume={tmp_path}"), composed)
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    assert written.keys() == saved.keys() and all(torch.equal(written[name], saved[name]) for name in saved)
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "stopped"


def test_without_a_checkpoint_the_remedy_is_named(tmp_path):
    for run in (run_of(tmp_path), run_of(tmp_path, f"resume={tmp_path}")):
        with pytest.raises(ConfigError, match=f"{tmp_path} has none; set resume=RUN_DIRECTORY"):
            run_stage(run, composed)
    assert not (tmp_path / "model").exists()


def test_a_run_without_resume_never_exports_what_lies_about(tmp_path, saved):
    with pytest.raises(ConfigError, match="set resume=RUN_DIRECTORY"):
        run_stage(replace(run_of(tmp_path), directory=tmp_path), composed)
