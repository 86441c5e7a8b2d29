"""The command in several processes: one directory, one voice, and checkpoints that any number of them go on from."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from launching import SHORT, environment, together
from safetensors.torch import load_file
from shared_runs import run_cases
from transformers import AutoModelForCausalLM, AutoTokenizer

from r1lit.callbacks.recorder import read_metrics
from r1lit.distributed.launch import Launch, read_launch
from r1lit.stages.machine import _launch_problems, launch_notes
from r1lit.stages.settings import TrainerSettings

QUICK = (*SHORT, "evaluation.enabled=false")
OF_TIME = ("time/", "perf/")


def torchrun(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        together(*overrides), cwd=folder, env=environment(), capture_output=True, text=True, timeout=280
    )


def finished(folder: Path, *overrides: str) -> None:
    done = torchrun(folder, *overrides)
    assert done.returncode == 0, done.stdout + done.stderr


def metrics(run: Path) -> list[dict]:
    return [
        {name: value for name, value in row.items() if not name.startswith(OF_TIME)}
        for row in read_metrics(run / "metrics.jsonl")
    ]


def test_a_run_in_shards_goes_on_in_one_process_and_in_two_again(tmp_path, r1lit):
    finished(tmp_path, *QUICK, "trainer=fsdp", "algorithm.steps=1")
    (run,) = (tmp_path / "runs" / "r1_zero").iterdir()
    assert {path.name for path in run.iterdir()} >= {".hydra", "r1lit.log", "config.yaml", "summary.json", "model"}
    (checkpoint,) = (run / "checkpoints").iterdir()
    assert checkpoint.is_dir() and len(list(checkpoint.glob("*.distcp"))) == 2
    refused = r1lit(f"resume={run}", "trainer=single", check=False)
    assert refused.returncode == 2 and "is in shards; go on with trainer=fsdp" in refused.stderr

    r1lit(f"resume={run}", "algorithm.steps=2")
    finished(tmp_path, f"resume={run}", "algorithm.steps=3")
    # Only the newest two are kept.
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step_000002.ckpt", "step_000003.ckpt"]

    run_cases(tmp_path, {"alone": (*QUICK, "algorithm.steps=3")})
    alone = tmp_path / "alone"
    assert len(metrics(run)) == 3
    for expected, found in zip(metrics(alone), metrics(run), strict=True):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)
    expected, found = (load_file(folder / "model" / "model.safetensors") for folder in (alone, run))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)

    # The last checkpoint, without the processes that wrote it.
    (run / "model" / "model.safetensors").unlink()
    r1lit("stage=export", f"resume={run}")
    torch.testing.assert_close(load_file(run / "model" / "model.safetensors"), found, rtol=0, atol=0)
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    ids = AutoTokenizer.from_pretrained(run / "model")("What is 1+2+3?", return_tensors="pt")["input_ids"]
    assert model.generate(ids, max_new_tokens=4).shape[1] > ids.shape[1]
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"


def test_what_does_not_fit_the_processes_is_said_once(tmp_path):
    refused = torchrun(tmp_path, *QUICK, "algorithm.steps=1")
    assert refused.returncode != 0
    assert refused.stderr.count("trainer=single is one process, but torchrun has started 2 processes") == 1
    assert not list(tmp_path.glob("runs/*/*"))


def problems(stage: str, launch: Launch, **trainer) -> str:
    return "\n".join(_launch_problems(stage, TrainerSettings(**trainer), launch))


def test_settings_are_held_against_the_launch(monkeypatch):
    two = Launch(0, 2, 0, 2, by="torchrun")
    assert problems("fit", two, strategy="ddp") == problems("fit", Launch()) == ""
    assert "stage=collect is done by one process" in problems("collect", two, strategy="fsdp")
    assert "trainer.replicas=3 does not divide the 2 processes" in problems("fit", two, strategy="fsdp", replicas=3)
    assert not problems("fit", Launch(0, 4, 0, 2), strategy="fsdp", replicas="nodes")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert "with 1 GPUs, but each needs one" in problems("fit", two, strategy="ddp")
    assert not problems("fit", two, strategy="ddp", accelerator="cpu")
    with pytest.raises(ValueError, match="cpu_offload is of a sharded model, which trainer=ddp has not"):
        TrainerSettings(strategy="ddp", cpu_offload=True)


def test_processes_that_are_idle_or_missing_are_told():
    def notes(batch: int, launch: Launch, **trainer) -> str:
        return "\n".join(launch_notes("fit", TrainerSettings(**trainer), batch, launch))

    two = Launch(0, 2, 0, 2, by="torchrun")
    assert notes(2, two, strategy="ddp") == notes(1, Launch(), strategy="single") == ""
    assert "trainer=ddp in one process" in notes(8, Launch(), strategy="ddp")
    assert "set algorithm.prompts_per_step=2 or more, or start fewer" in notes(1, two, strategy="fsdp")


def test_slurms_batch_script_itself_is_one_process():
    job = {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}
    assert read_launch(job) == Launch()
    elastic = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1"}
    assert read_launch(job | elastic | {"TORCHELASTIC_RUN_ID": "x"}) == Launch(3, 4, 1, 2, 1, "torchrun")
