"""What runs side by side when something goes wrong: signals, failures and readers that are gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from r1lit.callbacks.checkpointing import RunInterruptedError
from r1lit.stages.manifest import Manifest
from r1lit.stages.plan import Step
from r1lit.stages.running import StepFailedError, run_steps
from r1lit.stages.standby import Command

# A step of a second's work at most that saves when it is told to stop, as training does.
WORK = """
import pathlib, signal, sys, time
place, seconds, code = pathlib.Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
def stop(signum, frame):
    with (place / "signals").open("a") as file: file.write(f"{signum}\\n")
    sys.exit(128 + signum)
signal.signal(signal.SIGTERM, stop); signal.signal(signal.SIGINT, stop)
place.mkdir(parents=True, exist_ok=True)
(place / "began").touch()
time.sleep(seconds)
if code == 0: (place / "samples.jsonl").touch()
sys.exit(code)
"""


class Quick(Command):
    """A real process that does little."""

    def __init__(self, arguments: list[str]):
        self.process, self._printer = subprocess.Popen([sys.executable, "-c", WORK, *arguments]), None


class Begins:
    """Begins steps whose overrides are their seconds and their exit status."""

    def __init__(self, meanwhile=lambda name: None):
        self.meanwhile = meanwhile

    def begin(self, arguments: list[str], name: str, last: bool) -> Command:
        *work, place = arguments
        command = Quick([place.split("=", 1)[1].strip('"'), *work])
        deadline = time.monotonic() + 10
        while not Path(place.split("=", 1)[1].strip('"'), "began").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.meanwhile(name)
        return command


def step(root: Path, name: str, seconds: float, code: int = 0, inputs: tuple[str, ...] = ()) -> Step:
    config = {"stage": "evaluate"}
    return Step(name, 0, root / name, (str(seconds), str(code)), inputs, config, fingerprint=name)


def run(root: Path, *steps: Step, begins: Begins | None = None, at_once: int = 2) -> tuple[list[str], dict[str, float]]:
    told, took = [], {}
    run_steps(steps, Manifest(root), begins or Begins(), at_once, told.append, took.__setitem__)
    return told, took


def signals(root: Path, name: str) -> list[int]:
    path = root / name / "signals"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def test_a_step_waits_for_its_inputs_and_others_go_before_it(tmp_path):
    steps = [step(tmp_path, "a", 0.3), step(tmp_path, "b", 0.1, inputs=("a",)), step(tmp_path, "c", 0.1)]
    told, took = run(tmp_path, *steps)
    assert told == ["[1/3] a: evaluate", "[3/3] c: evaluate", "[2/3] b: evaluate"]
    assert set(took) == {"a", "b", "c"}
    entries = json.loads((tmp_path / "manifest.json").read_text())
    assert entries["b"]["inputs"] == {"a": entries["a"]["mark"]}
    told, _ = run(tmp_path, *steps)
    assert told == ["[1/3] a: done before", "[2/3] b: done before", "[3/3] c: done before"]


def test_a_signal_that_comes_while_a_step_begins_reaches_it_once(tmp_path):
    begins = Begins(lambda name: os.kill(os.getpid(), signal.SIGTERM) if name == "b" else None)
    start = time.monotonic()
    with pytest.raises(RunInterruptedError, match="SIGTERM") as stopped:
        run(tmp_path, step(tmp_path, "a", 20), step(tmp_path, "b", 20), step(tmp_path, "c", 20), begins=begins)
    assert stopped.value.exit_code == 143 and time.monotonic() - start < 15
    assert signals(tmp_path, "a") == signals(tmp_path, "b") == [signal.SIGTERM]
    assert not (tmp_path / "c").exists()


def test_where_one_fails_the_other_saves_and_the_first_is_named(tmp_path):
    with pytest.raises(StepFailedError, match=r"step a failed \(it exited with status 3\)") as failed:
        run(tmp_path, step(tmp_path, "a", 0.2, code=3), step(tmp_path, "b", 20), step(tmp_path, "c", 20))
    assert failed.value.exit_code == 3
    assert signals(tmp_path, "b") == [signal.SIGTERM] and not (tmp_path / "c").exists()


def test_what_goes_wrong_here_leaves_no_step_running(tmp_path):
    def full(name: str) -> None:
        if name == "b":
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        run(tmp_path, step(tmp_path, "a", 20), step(tmp_path, "b", 0.1), begins=Begins(full))
    assert signals(tmp_path, "a") == [signal.SIGTERM]


def test_a_reader_that_is_gone_holds_nothing_up(tmp_path):
    """More than a pipe holds, said to a standard error that nobody reads any more."""
    code = f"""
import json, os, sys, time
from r1lit.stages.standby import Command
command = Command.__new__(Command)
import subprocess
pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
flood = "for _ in range(20000): print('0123456789' * 3)"
theirs, command._ours = os.pipe()
command.process, command._printer = subprocess.Popen([sys.executable, "-c", flood], **pipes), None
command.begin([], "flood")
deadline = time.monotonic() + 30
while command.ended() is None and time.monotonic() < deadline: time.sleep(0.05)
open({str(tmp_path / "ended")!r}, "w").write(str(command.ended()))
"""
    reader, writer = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", code], stderr=writer)
    os.close(writer)
    assert os.read(reader, 100)
    os.close(reader)
    process.wait(timeout=90)
    assert (tmp_path / "ended").read_text() == "0"
