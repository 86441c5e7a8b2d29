"""Where metrics go beside metrics.jsonl, through whole runs, and that a resumed run goes on there."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest
import wandb
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from r1lit.__main__ import config_directory
from r1lit.callbacks.checkpointing import RunInterruptedError, checkpoints
from r1lit.callbacks.recorder import read_metrics
from r1lit.callbacks.wandb_file import history, records
from r1lit.callbacks.wandb_run import WandbRun
from r1lit.settings import ConfigError, UserError
from r1lit.stages.fit import fit
from r1lit.stages.loggers import build_loggers, logged, plain
from r1lit.stages.run import Run, read
from r1lit.stages.summary import Summary

SHORT = (
    "data.limit=200",
    "algorithm.steps=2",
    "algorithm.prompts_per_step=2",
    "algorithm.group_size=4",
    "algorithm.minibatches=1",
    "evaluation.prompts=4",
    "evaluation.k=1",
    "preflight.enabled=false",
    "trainer.checkpoint_every=2",
)


@pytest.fixture(autouse=True)
def _no_account(monkeypatch, tmp_path):
    wandb.teardown()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    for name in ("HOME", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    yield
    wandb.teardown()


def run_of(folder: Path, *overrides: str) -> Run:
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_directory(), version_base="1.3"):
        config = compose("config", [*SHORT, *overrides])
    folder.mkdir(exist_ok=True)
    return read(OmegaConf.to_container(config, resolve=True), folder)


def trained(folder: Path, *overrides: str) -> None:
    fit(run_of(folder, *overrides), Summary(folder, Console(file=io.StringIO())))


def logs(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/*run-*/*.wandb"), key=lambda path: path.stat().st_mtime)


def config_of(path: Path) -> dict:
    (begun,) = [record.run for record in records(path) if record.WhichOneof("record_type") == "run"]
    return {item.key: json.loads(item.value_json) for item in begun.config.update}


def test_csv_goes_on_in_the_same_file(tmp_path):
    trained(tmp_path, "evaluation.enabled=false")
    # What a process that was killed after the checkpoint has written, and what was lost with it.
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + json.dumps({"step": 2, "reward": 99.0}) + "\n")
    (table,) = tmp_path.rglob("metrics.csv")
    table.write_text(table.read_text().splitlines()[0] + "\n")
    trained(tmp_path, "evaluation.enabled=false", "algorithm.steps=4", f"resume={tmp_path}")
    (table,) = tmp_path.rglob("metrics.csv")
    rows = list(csv.DictReader(table.open()))
    assert [int(row["step"]) for row in rows] == [0, 1, 2, 3]
    expected = [row["reward"] for row in read_metrics(path)]
    assert [float(row["reward"]) for row in rows] == pytest.approx(expected) and 99.0 not in expected


def test_tensorboard_goes_on_in_the_same_folder(tmp_path):
    trained(tmp_path, "evaluation.enabled=false", "logger=tensorboard", "algorithm.steps=3")
    # As if it had been killed in the third step: that one is done again.
    newest = checkpoints(tmp_path)[-1]
    assert newest.stem == "step_000003"
    newest.unlink()
    more = ("evaluation.enabled=false", "logger=tensorboard", "algorithm.steps=4", f"resume={tmp_path}")
    trained(tmp_path, *more)
    (folder,) = {path.parent for path in tmp_path.rglob("events.out.*")}
    board = EventAccumulator(str(folder)).Reload()
    logged_rewards = {event.step: event.value for event in board.Scalars("reward")}
    assert [event.step for event in board.Scalars("reward")] == [0, 1, 2, 3]
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [logged_rewards[row["step"]] for row in rows] == pytest.approx([row["reward"] for row in rows], rel=1e-6)


def test_wandb_offline_through_the_command_and_resumed(r1lit, tmp_path):
    """No account, no terminal, no question; the resumed run is the same one, with every step once."""
    own = ("logger=wandb", "logger.project=mine", "logger.group=g", "logger.tags=[a,b]", "logger.notes='what it is'")
    keyless = {"HOME": str(tmp_path), "WANDB_CONFIG_DIR": str(tmp_path), "WANDB_API_KEY": ""}
    done = r1lit(*SHORT, *own, "evaluation.every=2", WANDB_MODE="offline", **keyless)
    assert "Traceback" not in done.stderr and "wandb sync" in done.stderr
    (folder,) = (tmp_path / "runs" / "r1_zero").iterdir()
    trained(folder, *own, "logger.mode=offline", "algorithm.steps=3", f"resume={folder}")

    first, second = logs(folder)
    identity = (folder / "wandb_id").read_text().strip()
    for path in (first, second):
        (begun,) = [record.run for record in records(path) if record.WhichOneof("record_type") == "run"]
        assert (begun.run_id, begun.project, begun.run_group, list(begun.tags), begun.notes) == (
            *(identity, "mine", "g", ["a", "b"], "what it is"),
        )
    rows = [row for path in (first, second) for row in history(path)]
    trained_rows = [row for row in rows if "reward" in row]
    recorded = read_metrics(folder / "metrics.jsonl")
    assert [row["step"] for row in trained_rows] == [0, 1, 2]
    for sent, kept in zip(trained_rows, recorded, strict=True):
        assert {name: sent[name] for name in kept} == pytest.approx(kept)
    config = config_of(second)
    assert config["algorithm"]["steps"] == 3 and config["reward"]["accuracy"]["weight"] == 1.0
    assert config["reward"]["accuracy"]["_target_"] == "r1lit.rewards.accuracy.accuracy"

    # The first part evaluated after its last step, so its end is no second row; the other has a row of its own.
    figures = json.loads((folder / "summary.json").read_text())
    assert [(row["step"], row["validation/pass@1"]) for row in rows if "validation/pass@1" in row] == [
        (1, pytest.approx(trained_rows[1]["validation/pass@1"])),
        (2, pytest.approx(figures["after"]["pass@1"])),
    ]
    summary = {}
    for record in records(second):
        summary |= {item.key or "/".join(item.nested_key): item.value_json for item in record.summary.update}
    for name, value in (("before", "before"), ("after", "after"), ("validation", "after")):
        assert float(summary[f"{name}/pass@1"]) == pytest.approx(figures[value]["pass@1"])
    tables = [
        (path, row["step"], row["completions/path"])
        for path in (first, second)
        for row in history(path)
        if "completions/path" in row
    ]
    assert [step for _, step, _ in tables] == [0, 1, 2]
    shown = json.loads((tables[0][0].parent / "files" / tables[0][2]).read_text())
    assert shown["columns"] == [
        *("step", "prompt", "thinking", "answer", "rewards/accuracy", "rewards/format"),
        *("reward", "advantage", "truncated"),
    ]
    assert len(shown["data"]) == 8


@pytest.mark.parametrize(
    ("settings", "environment", "mode"),
    [
        ([], {}, "offline"),
        ([], {"WANDB_MODE": "offline"}, "offline"),
        (["logger.mode=offline"], {"WANDB_MODE": "online"}, "offline"),
        (["logger.mode=disabled"], {}, "disabled"),
        ([], {"WANDB_API_KEY": "0123456789" * 4}, "online"),
        (["logger.mode=online"], {"WANDB_API_KEY": "0123456789" * 4, "WANDB_MODE": "offline"}, "online"),
        ([], {"WANDB_API_KEY": "0123456789" * 4, "WANDB_MODE": "disabled"}, "disabled"),
    ],
)
def test_modes(tmp_path, monkeypatch, settings, environment, mode):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (logger,) = build_loggers(run_of(tmp_path / "run", "logger=wandb", *settings))
    assert isinstance(logger, WandbRun) and logger.mode == mode


@pytest.mark.parametrize(("settings", "environment"), [(["logger.mode=online"], {}), ([], {"WANDB_MODE": "online"})])
def test_online_without_a_key_is_refused(tmp_path, monkeypatch, settings, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"set WANDB_API_KEY in the environment, or WANDB_MODE=offline"):
        build_loggers(run_of(tmp_path / "run", "logger=wandb", *settings))
    assert not list((tmp_path / "run").iterdir())


def test_what_is_no_key_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(ConfigError, match="mend WANDB_API_KEY"):
        build_loggers(run_of(tmp_path / "run", "logger=wandb"))


@pytest.mark.parametrize(
    ("error", "code"), [(UserError("no"), 1), (RunInterruptedError(15, Path("x")), 143), (RuntimeError("bug"), 1)]
)
def test_a_run_that_fails_ends_in_wandb_too(tmp_path, error, code):
    """Its process may have others to run: they must not go on with this one."""
    run, summary = run_of(tmp_path / "run", "logger=wandb"), Summary(tmp_path, Console(file=io.StringIO()))
    summary.figures |= {"before": {"pass@1": 0.5}, "after": {"pass@1": 0.75}}
    loggers = build_loggers(run)
    with pytest.raises(type(error)), logged(loggers, summary):
        loggers[0].log_metrics({"reward": 1.0}, 0)
        raise error
    (path,) = logs(tmp_path / "run")
    (left,) = [record.exit for record in records(path) if record.WhichOneof("record_type") == "exit"]
    assert left.exit_code == code and wandb.run is None
    # What an earlier part of the run was measured to be at its end is no figure of one that failed.
    names = {item.key or "/".join(item.nested_key) for record in records(path) for item in record.summary.update}
    assert "before/pass@1" in names and not any(name.startswith(("after", "validation")) for name in names)


def test_the_configuration_is_plain_and_whole(tmp_path):
    config = plain(run_of(tmp_path / "run", "logger=none"))
    assert json.loads(json.dumps(config)) == config
    assert config["evaluation"]["k"] == 1 and config["seed"] == 0 and config["stage"] == "fit"
    assert {"model", "data", "algorithm", "rollout", "optimizer", "trainer", "reward"} <= config.keys()
