"""Commands that load their libraries before they are called for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil

from r1lit.stages.standby import Command, Standby


def end(command: Command) -> int:
    while command.ended() is None:
        time.sleep(0.05)
    return command.ended()


def test_commands_run_one_after_the_other_and_nothing_is_left_waiting(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    with Standby() as standby:
        assert end(standby.begin(["stage=no_such_stage"], "first", last=False)) == 2
        assert end(standby.begin(["--info", "searchpath"], "second", last=True)) == 0
    told = capfd.readouterr()
    assert "no_such_stage" in told.err and "Traceback" not in told.err and "first: " not in told.err
    assert "provider" in told.out.lower()
    others = psutil.Process().children()
    with Standby():
        (waiting,) = (child for child in psutil.Process().children() if child not in others)
    assert not waiting.is_running()


def test_what_runs_side_by_side_tells_its_name_on_every_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with Standby(at_once=2) as standby:
        commands = [standby.begin([f"stage={name}"], name, last=name == "right") for name in ("left", "right")]
        assert [end(command) for command in commands] == [2, 2]
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    for name, other in (("left", "right"), ("right", "left")):
        mine = [line for line in lines if line.startswith(f"{name}: ")]
        assert mine and f"stage='{name}'" in "".join(mine) and f"stage='{other}'" not in "".join(mine)
    assert all(line.startswith(("left: ", "right: ")) for line in lines)


def test_what_waits_dies_with_its_parent():
    code = "import time; from r1lit.stages.standby import Command; Command(); print('made', flush=True); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "made\n"
    (waiting,) = psutil.Process(parent.pid).children()
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    while waiting.is_running() and waiting.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not waiting.is_running() or waiting.status() == psutil.STATUS_ZOMBIE


def test_one_that_is_never_told_anything_ends():
    waiting = Command()
    os.close(waiting._ours)
    assert waiting.process.wait(timeout=60) == 0
