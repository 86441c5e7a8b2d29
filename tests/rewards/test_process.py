from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from r1lit.rewards.pool import RewardPool
from r1lit.rewards.spec import RewardSettings
from r1lit.types import Group, Prompt

REWARDS = """
import os, subprocess, sys, time

def hangs(completions): time.sleep(60)
def child(completions):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)  # " + os.environ["R1LIT_MARK"]])
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "processes.py").write_text(REWARDS)
    return tmp_path


def running(mark: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark in (entry / "environ").read_text(errors="replace"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return [pid for pid in found if pid != os.getpid()]


def dwindles(mark: str, count: int) -> bool:
    deadline = time.monotonic() + 5
    while len(running(mark)) > count and time.monotonic() < deadline:
        time.sleep(0.05)
    return len(running(mark)) <= count


def test_what_a_reward_started_dies_with_it(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("R1LIT_MARK", mark := f"mark-{time.time_ns()}")
    settings = RewardSettings.model_validate({"_target_": "processes.child", "timeout": 1.0})
    with RewardPool({"child": settings}, plugin_paths=[folder]) as pool:
        (score,) = pool.score([Group(Prompt((1,), "q"), [[1]], ["a"], [False])])
        assert score.failures["child"] == {"timeout": 1}
        # The supervisor is left, and no worker until there is work.
        assert dwindles(mark, 1)
    assert dwindles(mark, 0)


@pytest.mark.parametrize("how", ["returns", "is killed"])
def test_no_process_outlives_the_program(folder: Path, monkeypatch: pytest.MonkeyPatch, how: str):
    program = textwrap.dedent(f"""
        import os, signal, time
        from r1lit.rewards.pool import RewardPool
        from r1lit.rewards.spec import RewardSettings
        from r1lit.types import Group, Prompt
        hangs = RewardSettings.model_validate({{"_target_": "processes.hangs"}})
        pool = RewardPool({{"hangs": hangs}}, 1, [{str(folder)!r}])
        pool.submit(0, Group(Prompt((1,), "q"), [[1]], ["a"], [False]))
        time.sleep(0.3)
        if {how == "is killed"}: os.kill(os.getpid(), signal.SIGKILL)
    """)
    mark = f"mark-{time.time_ns()}"
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | {"R1LIT_MARK": mark}, timeout=60)
    assert done.returncode == (-signal.SIGKILL if how == "is killed" else 0)
    assert dwindles(mark, 0)
