"""Two processes and one engine: weights made whole in step, and failures of one that leave no other waiting."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from launching import TORCHRUN, environment

PROGRAM = Path(__file__).parent.parent / "support" / "shared_pushes.py"


def test_a_push_and_a_failure_are_those_of_all_processes(tmp_path):
    done = subprocess.run(
        [*TORCHRUN, "--standalone", "--nproc-per-node", "2", PROGRAM, tmp_path],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    first, second = sorted(said, key=lambda process: process["rank"])
    assert first["same"] and second["same"] and first["version"] == second["version"]
    assert first["adapters"] and second["adapters"]
    assert first["broken"] == "UserError: the network is down"
    assert second["broken"] == "PeerError: stopped, because process 0 did: the network is down"
    assert second["drawing"] == "UserError: out of paper"
    assert first["drawing"] == "PeerError: stopped, because process 1 did: out of paper"
