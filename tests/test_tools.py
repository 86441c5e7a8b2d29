"""The programs in tools/ that measure can be loaded: what they import is there; and processes can be counted."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parent.parent / "tools"


@pytest.mark.parametrize("name", sorted(path.stem for path in TOOLS.glob("bench*.py")))
def test_a_bench_loads(name, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(TOOLS)])
    assert callable(getattr(importlib.import_module(name), "main", None)) or name == "benching"


def test_scaling_by_ranks_runs_in_two_processes():
    sizes = ("--prompts", "2", "--group", "2", "--length", "8", "--steps", "1", "--rounds", "1", "--ranks", "2")
    command = [sys.executable, TOOLS / "bench_scaling.py", *sizes, "--trainer", "fsdp"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])
