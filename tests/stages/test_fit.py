"""Training in this process."""

from __future__ import annotations

import io
import json
import re
import resource
import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from r1lit.__main__ import composed, config_directory
from r1lit.callbacks.recorder import read_metrics
from r1lit.callbacks.storage import StorageError
from r1lit.settings import ConfigError
from r1lit.stages.dispatch import run_stage
from r1lit.stages.fit import fit
from r1lit.stages.run import Run, read
from r1lit.stages.setup import workbench
from r1lit.stages.summary import Summary
from r1lit.stages.training import answers_mark
from r1lit.types import Prompt

SHORT = (
    "data.limit=200",
    "algorithm.steps=4",
    "algorithm.prompts_per_step=2",
    "algorithm.group_size=4",
    "evaluation.prompts=6",
    "evaluation.k=2",
    "preflight.enabled=false",
)


def run_of(folder: Path, *overrides: str) -> Run:
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_directory(), version_base="1.3"):
        config = compose("config", [*SHORT, *overrides])
    folder.mkdir(exist_ok=True)
    return read(OmegaConf.to_container(config, resolve=True), folder)


def trained(folder: Path, *overrides: str, **console) -> str:
    """What training shows in the terminal."""
    out = Console(file=io.StringIO(), width=120, **console)
    fit(run_of(folder, *overrides), Summary(folder, out))
    return out.file.getvalue()


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_evaluation_while_training_in_a_terminal(tmp_path):
    """With both bars in one terminal: the training's and the evaluation's."""
    shown = trained(tmp_path, "evaluation.every=2", "logger=none", force_terminal=True)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if "validation/pass@1" in row] == [1, 3]
    assert {"validation/mean_length", "validation/format", "validation/cons@2"} <= rows[1].keys()
    # The last evaluation while training and the one after it see the same policy, prompts and seed.
    assert rows[3]["validation/pass@1"] == summary_of(tmp_path)["after"]["pass@1"]
    for part in ("evaluating", "training", "4/4", "reward", "accuracy", "tok/s"):
        assert part in re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown)


def test_without_a_logger_the_metrics_are_kept_all_the_same(tmp_path):
    shown = trained(tmp_path, "logger=none", "evaluation.enabled=false", "algorithm.steps=1")
    assert "attention: sdpa, sequences packed end to end (CPU)\n" in shown
    assert summary_of(tmp_path)["attention"] == {"name": "sdpa", "sequences": "packed"}
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1
    assert not {"csv", "tensorboard", "wandb", "lightning_logs"} & {path.name for path in tmp_path.iterdir()}
    assert not {"before", "after"} & summary_of(tmp_path).keys()


def test_the_metric_in_force_is_written_down(tmp_path):
    trained(tmp_path, "evaluation.metric=format", "logger=none", "algorithm.steps=1")
    figures = summary_of(tmp_path)
    assert figures["metric"] == "format"
    assert figures["before"]["pass@1"] == pytest.approx(figures["before"]["format"])


def test_csv_and_tensorboard_hold_the_metrics(tmp_path):
    trained(tmp_path / "csv", "evaluation.enabled=false", "evaluation.every=3")
    trained(tmp_path / "board", "logger=tensorboard", "evaluation.enabled=false", "evaluation.every=3")
    rows = read_metrics(tmp_path / "board" / "metrics.jsonl")
    (table,) = (tmp_path / "csv").rglob("metrics.csv")
    header = table.read_text().splitlines()[0].split(",")
    assert set(header) == {name for row in rows for name in row}
    (events,) = (tmp_path / "board" / "tensorboard").rglob("events.out.*")
    board = EventAccumulator(str(events)).Reload()
    for name in ("reward", "rewards/accuracy/mean", "completions/mean_length", "perf/tokens_per_second"):
        logged = board.Scalars(name)
        assert [event.step for event in logged] == [0, 1, 2, 3]
        assert [event.value for event in logged] == pytest.approx([row[name] for row in rows], rel=1e-6)
    assert [event.step for event in board.Scalars("validation/pass@1")] == [2]


@pytest.mark.parametrize(
    ("options", "what"),
    [((), r"checkpoints/step_000004\.ckpt"), (("trainer.checkpoint_every=0",), r"model")],
)
def test_a_disk_that_fills_up_stops_the_run_with_a_remedy(tmp_path, options, what):
    run = run_of(tmp_path, "logger=none", "evaluation.enabled=false", *options)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        with pytest.raises(StorageError, match=f"{what} could not be written.*ulimit -f"):
            run_stage(run, composed)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.rglob("*.ckpt")) and not list(tmp_path.rglob("*.part"))
    assert not list(tmp_path.glob("*model*")) and len(read_metrics(tmp_path / "metrics.jsonl")) == 4
    assert summary_of(tmp_path)["status"] == "stopped" and "could not be written" in summary_of(tmp_path)["reason"]


def test_before_and_after_are_of_one_evaluation(tmp_path):
    few = ("logger=none", "evaluation.k=1", "rollout.max_tokens=16", "evaluation.max_tokens=16")
    trained(tmp_path, *few, "algorithm.steps=1")
    before, again = summary_of(tmp_path)["before"], (*few, f"resume={tmp_path}")
    shown = trained(tmp_path, *again, "algorithm.steps=2", "evaluation.every=2", "reward.accuracy.weight=2")
    assert summary_of(tmp_path)["before"] == before and "left out" not in shown
    more = (*again, "evaluation.prompts=8")
    shown = trained(tmp_path, *more, "algorithm.steps=3")
    assert "before: left out" in shown and "before training" not in shown
    assert "before" not in summary_of(tmp_path) and summary_of(tmp_path)["after"]["prompts"] == 8
    shown = trained(tmp_path, *more, "algorithm.steps=4")
    assert "before" not in shown and "before" not in summary_of(tmp_path) and summary_of(tmp_path)["steps"] == 4


def test_before_is_measured_anew_where_nothing_is_trained_yet(tmp_path):
    few = ("logger=none", "evaluation.k=1", "rollout.max_tokens=16", "evaluation.max_tokens=16", "algorithm.steps=1")
    trained(tmp_path, *few)
    for name in ("checkpoints", "model"):
        shutil.rmtree(tmp_path / name)
    assert "before training" not in trained(tmp_path, *few, f"resume={tmp_path}")
    for name in ("checkpoints", "model"):
        shutil.rmtree(tmp_path / name)
    assert "before training" in trained(tmp_path, *few, f"resume={tmp_path}", "evaluation.prompts=8")
    assert [summary_of(tmp_path)[when]["prompts"] for when in ("before", "after")] == [8, 8]


def test_what_a_measure_depends_on(tmp_path):
    prompts = [Prompt((1, 2), "a", {"answer": "1"}), Prompt((3,), "b", {"answer": "2"}), Prompt((4,), "c")]

    def mark(*overrides: str, asked: list[Prompt] = prompts) -> str:
        return answers_mark(run_of(tmp_path, "evaluation.prompts=2", *overrides), asked)

    same = [
        mark(),
        mark("evaluation.every=3", "evaluation.before=false", "reward.accuracy.weight=3", "algorithm.steps=9"),
        mark(asked=prompts[:2]),
    ]
    others = [
        *(mark(f"evaluation.{other}") for other in ("k=3", "temperature=0.1", "max_tokens=9", "metric=format")),
        mark("evaluation.prompts=3"),
        mark("reward=[accuracy]"),
        mark("reward.accuracy.timeout=1"),
        mark(asked=prompts[1:]),
        mark(asked=[Prompt((1, 2), "a", {"answer": "7"}), prompts[1]]),
        mark(asked=[Prompt((1, 2), "a", {"answer": "1"}, prefill="<think>"), prompts[1]]),
    ]
    assert len(set(same)) == 1 and len({*same, *others}) == 1 + len(others)


def test_a_longer_run_that_is_cut_off_keeps_no_figure_of_the_earlier_end(tmp_path):
    options = ("logger=none", "evaluation.k=1", "rollout.max_tokens=16", "evaluation.max_tokens=16")
    trained(tmp_path, *options, "algorithm.steps=1")
    first = summary_of(tmp_path)
    assert {"before", "after", "steps", "tokens", "flops", "updates_skipped"} <= first.keys()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        with pytest.raises(StorageError):
            trained(tmp_path, *options, f"resume={tmp_path}", "algorithm.steps=2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    # Nothing recorded how it ended, as where it is killed.
    found = summary_of(tmp_path)
    assert found["status"] == "running" and found["before"] == first["before"]
    assert not {"after", "steps", "tokens", "flops", "updates_skipped"} & found.keys()
    trained(tmp_path, *options, f"resume={tmp_path}", "algorithm.steps=2")
    found = summary_of(tmp_path)
    assert found["steps"] == 2 and found["tokens"] > first["tokens"] and found["before"] == first["before"]


def test_a_mistake_before_the_beginning_leaves_no_summary(tmp_path):
    with pytest.raises(ConfigError):
        run_stage(run_of(tmp_path, "logger=none", "rollout.max_tokens=5000"), composed)
    assert not (tmp_path / "summary.json").exists()


def test_too_few_prompts_to_hold_any_out_is_said_before_the_run(tmp_path):
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps({"prompt": "1 + 1 = ?", "answer": "2"}) + "\n")
    with (
        pytest.raises(ConfigError, match=r"of 1 prompts none could be held out.*evaluation.enabled=false"),
        workbench(run_of(tmp_path, f"data.path={path}")),
    ):
        pass
    with workbench(run_of(tmp_path, f"data.path={path}", "evaluation.enabled=false")) as bench:
        assert len(bench.prompts.train) == 1
