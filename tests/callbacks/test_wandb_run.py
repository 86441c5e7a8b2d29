"""Real offline runs of W&B, written through the logger and read back from its files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import wandb

from r1lit.callbacks.wandb_file import history, last_step, records
from r1lit.callbacks.wandb_run import WandbRun

KEY = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    """No account, no settings of a user's, and no wandb process from before."""
    wandb.teardown()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    yield
    wandb.teardown()


def run_of(folder: Path, said: list[str], start: int = 0, mode: str = "offline", **more) -> WandbRun:
    folder.mkdir(exist_ok=True)
    return WandbRun(folder, mode, {"project": "p"}, {"seed": 1}, start=start, say=said.append, **more)


def logs(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/*run-*/*.wandb"), key=lambda path: path.stat().st_mtime)


def steps(folder: Path) -> list[int]:
    return [row["step"] for path in logs(folder) for row in history(path) if "reward" in row]


def jsonl(folder: Path, count: int) -> None:
    rows = [{"step": step, "reward": step / 2, "odd": None} for step in range(count)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def completions(step: int, groups: int = 2, size: int = 2) -> pa.Table:
    rows = groups * size
    return pa.table(
        {
            "step": [step] * rows,
            "group": [row // size for row in range(rows)],
            "prompt": ["2 + 2?"] * rows,
            "completion": ["?"] * rows,
            "thought": [f"thought {row}" for row in range(rows)],
            "answer": ["4", *[None] * (rows - 1)],
            "rewards/accuracy": [1.0, *[None] * (rows - 1)],
            "reward": [1.0] * rows,
            "advantage": [0.5] * rows,
            "trained": [True] * rows,
            "truncated": [False] * rows,
        }
    )


def tables(folder: Path) -> dict[int, dict]:
    """The tables of every row that has one, from their files."""
    found = {}
    for path in logs(folder):
        for row in history(path):
            if "completions/path" in row:
                found[row["step"]] = json.loads((path.parent / "files" / row["completions/path"]).read_text())
    return found


def test_metrics_configuration_table_and_summary(tmp_path):
    run, said = run_of(tmp_path, said := [], table_rows=3), said
    run.open()
    for step in range(2):
        run.log_completions(completions(step))
        run.log_metrics({"reward": step / 2, "odd": float("nan")}, step)
    run.conclude({"before": {"pass@1": 0.25}, "after": {"pass@1": 0.5, "ci95": [0.4, 0.6]}}, {"pass@1": 0.5})
    run.finish(exit_code=0)
    (path,) = logs(tmp_path)
    rows = list(history(path))
    assert [(row["step"], row.get("reward")) for row in rows] == [(0, 0.0), (1, 0.5), (1, None)]
    assert rows[2]["validation/pass@1"] == 0.5
    kinds = {record.WhichOneof("record_type"): record for record in records(path)}
    (seed,) = [item.value_json for item in kinds["run"].run.config.update if item.key == "seed"]
    assert seed == "1" and kinds["run"].run.run_id == run.version == (tmp_path / "wandb_id").read_text().strip()
    assert kinds["exit"].exit.exit_code == 0
    summary = {}
    for record in records(path):
        summary |= {item.key or "/".join(item.nested_key): item.value_json for item in record.summary.update}
    assert (summary["before/pass@1"], summary["after/pass@1"], summary["validation/pass@1"]) == ("0.25", "0.5", "0.5")
    # A whole group, where the limit would cut the second one.
    assert tables(tmp_path)[1] == {
        "columns": [
            *("step", "prompt", "thinking", "answer", "rewards/accuracy", "reward", "advantage", "truncated"),
        ],
        "data": [
            [1, "2 + 2?", "thought 0", "4", 1.0, 1.0, 0.5, False],
            [1, "2 + 2?", "thought 1", None, None, 1.0, 0.5, False],
        ],
    }
    assert len(said) == 1 and f"wandb sync {tmp_path}/wandb/offline-run-" in said[0]


def test_an_evaluation_at_the_last_step_is_not_sent_twice(tmp_path):
    run = run_of(tmp_path, [])
    run.log_metrics({"validation/pass@1": 0.5}, 0)
    run.conclude({}, {"pass@1": 0.5})
    run.finish()
    assert [row["validation/pass@1"] for row in history(logs(tmp_path)[0])] == [0.5]


def test_a_killed_run_goes_on_as_the_same_one_with_every_step_once(tmp_path):
    """wandb holds back what it has for seconds: a killed process loses it, and the resumed one sends it again."""
    script = (
        "import os, sys, pathlib; from r1lit.callbacks.wandb_run import WandbRun\n"
        "run = WandbRun(pathlib.Path(sys.argv[1]), 'offline', {'project': 'p'}, {})\n"
        "for step in range(4): run.log_metrics({'reward': step / 2}, step)\n"
        "os.kill(os.getpid(), 9)"
    )
    died = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    jsonl(tmp_path, 4)
    (tmp_path / "completions").mkdir()
    pq.write_table(completions(1), tmp_path / "completions" / "step_000001.parquet")
    before = steps(tmp_path)
    assert before == list(range(len(before))) and len(before) < 4, "wandb has lost nothing: this test shows nothing"
    # It goes on from the checkpoint after two steps.
    run = run_of(tmp_path, [], start=2)
    for step in range(2, 6):
        run.log_metrics({"reward": step / 2}, step)
    run.finish()
    assert steps(tmp_path) == list(range(6))
    assert {path.stem for path in logs(tmp_path)} == {f"run-{run.version}"} and len(logs(tmp_path)) == 2
    assert 1 in tables(tmp_path)


@pytest.mark.parametrize("start", [2, 4])
def test_what_is_computed_again_is_not_sent_again(tmp_path, start):
    first = run_of(tmp_path, [])
    for step in range(4):
        first.log_metrics({"reward": step / 2}, step)
    first.finish(exit_code=143)
    jsonl(tmp_path, 4)
    second = run_of(tmp_path, [], start=start)
    second.open()
    for step in range(start, 6):
        second.log_completions(completions(step))
        second.log_metrics({"reward": step / 2}, step)
    second.finish()
    assert steps(tmp_path) == list(range(6)) and list(tables(tmp_path)) == [4, 5]
    assert last_step(tmp_path, second.version) == 5


def test_a_run_whose_files_were_sent_and_cleaned_away_is_not_sent_again(tmp_path):
    (tmp_path / "wandb_id").write_text("abc12345\n")
    jsonl(tmp_path, 4)
    run = run_of(tmp_path, [], start=2)
    for step in range(2, 5):
        run.log_metrics({"reward": 0.0}, step)
    run.finish()
    assert steps(tmp_path) == [4] and run.version == "abc12345"


def test_when_wandb_dies_that_is_said_and_the_next_run_is_whole(tmp_path):
    run, said = run_of(tmp_path / "a", said := []), said
    run.log_metrics({"reward": 0.0}, 0)
    (core,) = [child for child in psutil.Process().children(recursive=True) if "wandb-core" in child.name()]
    core.kill()
    core.wait(10)
    for step in range(1, 4):
        run.log_completions(completions(step))
        run.log_metrics({"reward": 0.0}, step)
    run.conclude({"after": {"pass@1": 1.0}}, {"pass@1": 1.0})
    run.finish()
    assert len(said) == 1 and "W&B has failed" in said[0] and "metrics.jsonl" in said[0]
    other = run_of(tmp_path / "b", said)
    other.log_metrics({"reward": 0.0}, 0)
    other.finish()
    assert steps(tmp_path / "b") == [0] and other.version != run.version


def test_a_full_disk_is_told_at_the_end(tmp_path):
    script = (
        "import resource, sys, pathlib; from r1lit.callbacks.wandb_run import WandbRun\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))\n"
        "run = WandbRun(pathlib.Path(sys.argv[1]), 'offline', {'project': 'p'}, {})\n"
        "for step in range(100): run.log_metrics({f'reward/{name}': 0.5 for name in range(30)}, step)\n"
        "run.finish()"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert "W&B could not keep the steps after" in done.stderr and "is the disk full?" in done.stderr


def test_without_a_network_the_run_is_kept_here(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    run, said = run_of(tmp_path, said := [], mode="online"), said
    run.log_metrics({"reward": 0.0}, 0)
    run.finish()
    assert "W&B cannot be reached" in said[0] and "kept on this disk" in said[0]
    assert steps(tmp_path) == [0] and all(run.version in path.name for path in logs(tmp_path))


def test_disabled_leaves_nothing(tmp_path):
    run = run_of(tmp_path / "run", [], mode="disabled")
    run.log_metrics({"reward": 0.0}, 0)
    run.finish()
    assert not list((tmp_path / "run").iterdir())


def test_secrets_stay_here(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_SERVICE_KEY", KEY)
    monkeypatch.setattr(sys, "argv", ["r1lit", "judge.api_key=typed-in-by-hand", "judge.url=https://me:pw1@host/"])
    config = {"judge": {"api_key": "typed-in-by-hand", "header": f"Bearer {KEY}"}, "rollout": {"max_tokens": 64}}
    run = WandbRun(tmp_path, "offline", {"project": "p"}, config)
    run.log_metrics({"reward": 0.0}, 0)
    run.finish()
    assert sys.argv[1] == "judge.api_key=typed-in-by-hand"
    kept = b"".join(path.read_bytes() for path in (tmp_path / "wandb").rglob("*") if path.is_file())
    assert b"max_tokens" in kept and b"judge.api_key=***" in kept
    for secret in (KEY, "typed-in-by-hand", "me:pw1"):
        assert secret.encode() not in kept
