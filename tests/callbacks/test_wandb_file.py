"""W&B's transaction log: against what the real wandb writes, and where it was cut off."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import wandb

from r1lit.callbacks.wandb_file import BLOCK, history, last_step, records


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    """A run of 300 rows, long enough that records run over the ends of blocks."""
    folder = tmp_path_factory.mktemp("run")
    settings = wandb.Settings(quiet=True, console="off")
    run = wandb.init(mode="offline", dir=folder, id="abc", project="p", settings=settings)
    for step in range(300):
        run.log({"step": step, "text": "x" * (step * 7 % 900), "deep": {"er": step}})
    run.finish()
    (path,) = folder.glob("wandb/offline-run-*-abc/run-abc.wandb")
    # On a busy machine W&B's own process is still writing when it says that it is done.
    deadline = time.monotonic() + 120
    while [*records(path)][-1].WhichOneof("record_type") != "exit" and time.monotonic() < deadline:
        time.sleep(0.2)
    return path


def test_every_row_comes_back(log):
    assert log.stat().st_size > 3 * BLOCK
    rows = list(history(log))
    assert [(row["step"], len(row["text"]), row["deep/er"]) for row in rows] == [
        (step, step * 7 % 900, step) for step in range(300)
    ]
    kinds = [record.WhichOneof("record_type") for record in records(log)]
    assert kinds.count("history") == 300 and kinds[-1] == "exit"
    assert last_step(log.parents[2], "abc") == 299


@pytest.mark.parametrize("share", [0.3, 0.31, 0.8])
def test_a_log_that_was_cut_off_ends_there(log, tmp_path, share):
    data = log.read_bytes()
    part = tmp_path / "part.wandb"
    part.write_bytes(data[: int(len(data) * share)])
    read = [row["step"] for row in history(part)]
    assert read == list(range(len(read))) and 0 < len(read) < 300
    assert abs(len(read) / 300 - share) < 0.3


def test_a_damaged_log_ends_where_it_is_damaged(log, tmp_path):
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    part = tmp_path / "part.wandb"
    part.write_bytes(data)
    read = [row["step"] for row in history(part)]
    assert read == list(range(len(read))) and 0 < len(read) < 300


def test_nothing_there_and_something_else(tmp_path):
    assert last_step(tmp_path, "abc") is None
    (tmp_path / "wandb" / "run-1-abc").mkdir(parents=True)
    (tmp_path / "wandb" / "run-1-abc" / "run-abc.wandb").write_bytes(b"")
    assert last_step(tmp_path, "abc") == -1
    (tmp_path / "other").write_bytes(b"PAR1....")
    with pytest.raises(ValueError, match="not a W&B transaction log"):
        list(records(tmp_path / "other"))
