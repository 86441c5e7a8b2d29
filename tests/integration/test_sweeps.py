"""Sweeps: by an agent of W&B, whose own code builds and runs the commands; by Hydra's launcher; by Optuna."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.apis.public.sweeps import _validate_config_and_fill_distribution
from wandb.sdk.launch.sweeps.utils import load_sweep_config
from wandb.wandb_agent import Agent

from r1lit.callbacks.recorder import read_metrics
from r1lit.callbacks.wandb_file import history, records

ROOT = Path(__file__).resolve().parents[2]
SWEEPS = sorted((ROOT / "tools" / "sweeps").glob("*.yaml"))

SHORT = {
    "algorithm.steps": 2,
    "algorithm.prompts_per_step": 2,
    "algorithm.group_size": 4,
    "algorithm.minibatches": 1,
    "evaluation.prompts": 4,
    "evaluation.k": 1,
    "preflight.enabled": False,
    "data.limit": 200,
}
TYPED = [f"{name}={value}" for name, value in SHORT.items()]


def draw(parameter: dict[str, Any], rng: random.Random) -> Any:
    """A value of a parameter, by the distributions that the sweeps here use."""
    low, high = parameter.get("min"), parameter.get("max")
    draws = {
        None: lambda: parameter["value"] if "value" in parameter else rng.choice(parameter["values"]),
        "uniform": lambda: rng.uniform(low, high),
        "log_uniform_values": lambda: math.exp(rng.uniform(math.log(low), math.log(high))),
    }
    return draws[parameter.get("distribution")]()


@pytest.fixture
def agent(tmp_path, monkeypatch):
    """W&B's agent as ``wandb agent`` makes it, without the server that would send it its trials."""
    bin_directory = Path(sys.executable).parent
    environment = {
        "PATH": f"{bin_directory}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "WANDB_CONFIG_DIR": str(tmp_path),
        "WANDB_MODE": "offline",
        "WANDB_API_KEY": "",
        "WANDB_SWEEP_ID": "sweep123",
    }
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    # What the agent itself sets in this process goes with the test too.
    for name, value in {**environment, "WANDB_RUN_ID": "", "WANDB_SWEEP_PARAM_PATH": "", "WANDB_DIR": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_DIR")
    monkeypatch.chdir(tmp_path)
    return Agent(api=None, queue=None, sweep_id="sweep123")


def start(agent: Agent, config: dict[str, Any], run_id: str, values: dict[str, Any]):
    """Have the agent start a trial, as it does when the server sends one; gives its process."""
    agent._sweep_command = list(config["command"])
    arguments = {name: {"value": value} for name, value in values.items()}
    answer = agent._process_command({"type": "run", "run_id": run_id, "program": config["program"], "args": arguments})
    assert "exception" not in answer, answer
    return agent._run_processes[run_id]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_is_what_wandb_takes(path):
    config = _validate_config_and_fill_distribution(load_sweep_config(str(path)))
    assert config["method"] == "bayes" and config["early_terminate"]["type"] == "hyperband"
    assert config["metric"] == {"name": "validation/pass@1", "goal": "maximize"}
    swept = {name for name, parameter in config["parameters"].items() if "value" not in parameter}
    assert swept == {
        *("optimizer.lr", "algorithm.kl_coef", "algorithm.clip_high", "algorithm.group_size", "rollout.temperature"),
        *("reward.format.weight", "reward.overlong.weight"),
    }
    for name in swept:
        parameter = config["parameters"][name]
        assert parameter.get("values") or parameter["min"] < parameter["max"]
    steps, every = (
        config["parameters"]["algorithm.steps"]["value"],
        int(next(part for part in config["command"] if part.startswith("evaluation.every=")).split("=")[1]),
    )
    assert steps % every == 0 and steps // every > config["early_terminate"]["min_iter"], "it could stop nothing early"


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_corner_of_a_sweep_is_a_valid_run(path, tmp_path):
    """The ends of every range, all at once."""
    from r1lit.__main__ import composed
    from r1lit.stages.run import read

    (tmp_path / "questions.jsonl").write_text("")
    config = load_sweep_config(str(path))
    fixed = [part for part in config["command"] if "=" in part]
    for end in ("min", "max"):
        corner = {
            name: parameter.get("value", parameter.get(end, (parameter.get("values") or [None])[-(end == "max")]))
            for name, parameter in config["parameters"].items()
        }
        if "data.path" in corner:
            corner["data.path"] = tmp_path / "questions.jsonl"
        values, problems = composed([*fixed, *(f"{name}={value}" for name, value in corner.items())])
        run = read(values, tmp_path, problems)
        assert (run.logger.kind, run.evaluation.metric) == ("wandb", "accuracy")
        assert run.optimizer.lr == corner["optimizer.lr"] and run.rewards["format"].weight > 0


def test_the_agents_own_commands_leave_two_whole_trials(agent, tmp_path, capfd):
    written = yaml.safe_load((ROOT / "tools" / "sweeps" / "grpo.yaml").read_text())
    written["parameters"] |= {name: {"value": value} for name, value in SHORT.items()} | {
        "evaluation.every": {"value": 1}
    }
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(written))
    config, rng = load_sweep_config(str(tmp_path / "short.yaml")), random.Random(0)
    for run_id in ("trial001", "trial002"):
        values = {name: draw(parameter, rng) for name, parameter in config["parameters"].items()}
        assert start(agent, config, run_id, values).wait(timeout=120) == 0
        (path,) = tmp_path.glob(f"runs/sweep/*/wandb/offline-run-*-{run_id}/run-{run_id}.wandb")
        (begun,) = [record.run for record in records(path) if record.WhichOneof("record_type") == "run"]
        assert (begun.run_id, begun.sweep_id) == (run_id, "sweep123")
        kept = {item.key: json.loads(item.value_json) for item in begun.config.update}
        assert {name: kept[name] for name in values} == pytest.approx(values)
        # The run went by them, too.
        assert kept["optimizer"]["lr"] == pytest.approx(values["optimizer.lr"])
        assert kept["reward"]["format"]["weight"] == pytest.approx(values["reward.format.weight"])
        rows = list(history(path))
        assert [row["step"] for row in rows if "reward" in row] == [0, 1]
        figures = json.loads((path.parents[2] / "summary.json").read_text())
        measured = [row["validation/pass@1"] for row in rows if "validation/pass@1" in row]
        assert len(measured) == 2 and measured[-1] == figures["after"]["pass@1"]
        assert (path.parents[2] / "wandb_id").read_text().strip() == run_id
    assert len(list(tmp_path.glob("runs/sweep/*"))) == 2
    # wandb warns of what a run asks for and an agent has decided.
    shown = capfd.readouterr().err
    assert shown.count("after training") == 2 and "Ignoring" not in shown


def test_a_trial_that_the_agent_stops_is_no_failure(agent, tmp_path):
    """Early termination: the agent counts exit codes above 0, and gives up after a few."""
    config = load_sweep_config(str(ROOT / "tools" / "sweeps" / "grpo.yaml"))
    values = SHORT | {"algorithm.steps": 100_000, "evaluation.enabled": False, "evaluation.every": 0}
    process = start(agent, config, "stopped1", values)
    deadline = time.monotonic() + 120
    while not any(read_metrics(path) for path in tmp_path.glob("runs/sweep/*/metrics.jsonl")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    agent._process_command({"type": "stop", "run_id": "stopped1"})
    assert process.wait(timeout=60) == -signal.SIGTERM
    (path,) = tmp_path.glob("runs/sweep/*/wandb/offline-run-*/*.wandb")
    (left,) = [record.exit for record in records(path) if record.WhichOneof("record_type") == "exit"]
    assert left.exit_code == 128 + signal.SIGTERM
    rows = [row["step"] for row in history(path)]
    assert rows == list(range(len(rows))) and len(list(path.parents[2].glob("checkpoints/*.ckpt"))) == 1


def test_hydras_own_launcher_runs_one_after_the_other(r1lit, tmp_path):
    done = r1lit(
        *("-m", "optimizer.lr=1e-4,-1,2e-4", "logger=wandb", "logger.mode=offline", "name=many", *TYPED),
        check=False,
        HOME=str(tmp_path),
        WANDB_CONFIG_DIR=str(tmp_path),
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "optimizer.lr=-1: input should be greater than 0" in done.stderr
    (folder,) = (tmp_path / "runs" / "many").iterdir()
    told = json.loads((folder / "sweep.json").read_text())
    assert [(run["run"], run["overrides"]["optimizer.lr"], run["status"]) for run in told] == [
        ("0", "0.0001", "finished"),
        ("1", "-1", "refused"),
        ("2", "0.0002", "finished"),
    ]
    for run in (told[0], told[2]):
        figures = json.loads((folder / run["run"] / "summary.json").read_text())
        assert (run["before"], run["pass@1"]) == (figures["before"]["pass@1"], figures["after"]["pass@1"])
        assert len(read_metrics(folder / run["run"] / "metrics.jsonl")) == 2
        (path,) = (folder / run["run"]).glob("wandb/offline-run-*/*.wandb")
        assert [row["step"] for row in history(path) if "reward" in row] == [0, 1]
    assert len({(folder / name / "wandb_id").read_text() for name in ("0", "2")}) == 2
    shown = done.stderr[done.stderr.rindex("optimizer.lr=-1: input") :]
    for expected in ("0.0001", "0.0002", "refused", "best: runs/many"):
        assert expected in shown


def test_optuna_chooses_the_values(r1lit, tmp_path):
    typed = [*TYPED, "logger=none", "hydra.sweeper.n_trials=2", "optimizer.lr=1e-4"]
    r1lit("sweep=optuna", *typed, "rollout.temperature=interval(0.9,0.95)", "name=chosen")
    (folder,) = (tmp_path / "runs" / "chosen").iterdir()
    told = json.loads((folder / "sweep.json").read_text())
    assert [(run["status"], run["overrides"]["optimizer.lr"]) for run in told] == [("finished", "0.0001")] * 2
    names = ("algorithm.kl_coef", "rollout.temperature")
    drawn = [[float(run["overrides"][name]) for name in names] for run in told]
    assert drawn[0] != drawn[1] and all(1e-4 <= kl <= 0.1 and 0.9 <= warmth <= 0.95 for kl, warmth in drawn)
    result = yaml.safe_load((folder / "optimization_results.yaml").read_text())
    assert result["best_value"] == max(run["pass@1"] for run in told)
    assert set(result["best_params"]) == {"++algorithm.kl_coef", "++rollout.temperature", "++reward.format.weight"}
    # One of its runs goes on alone.
    r1lit(f"resume={folder / '1'}", "algorithm.steps=3")
    assert [row["step"] for row in read_metrics(folder / "1" / "metrics.jsonl")] == [0, 1, 2]
    assert not (folder / "1" / "sweep.json").exists() and len(list(folder.iterdir())) == 4


def test_without_the_optuna_extra_the_remedy_is_told(tmp_path):
    code = "import hydra_plugins; hydra_plugins.__path__ = []; from r1lit.__main__ import main; main()"
    command = [sys.executable, "-c", code, "sweep=optuna"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "pip install 'r1lit[optuna]'" in done.stderr
    assert not list(tmp_path.iterdir())
