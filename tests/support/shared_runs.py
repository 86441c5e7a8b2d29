"""Stages run by all processes of a launch, one after the other: torchrun's program, and what tests compare with.

``torchrun --nproc-per-node 2 shared_runs.py FOLDER CASES.json``: CASES is a list of mappings of a run's name to its
overrides; a name in a later one goes on with that run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def run_cases(folder: Path, cases: Mapping[str, Sequence[str]]) -> None:
    """Run each case in ``folder/NAME``."""
    from composing import run_of

    from r1lit.stages.dispatch import run_stage

    for name, overrides in cases.items():
        run_stage(run_of(folder / name, *overrides), compose=None)


def share_cases(folder: Path, *cases: Mapping[str, Sequence[str]]) -> None:
    """Run each case in ``folder/NAME`` by two processes; a name in a later mapping goes on with that run."""
    written = folder / "cases.json"
    written.write_text(json.dumps(cases))
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run([*torchrun, __file__, folder, written], capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parent))
    from r1lit.distributed.launch import join, leave

    join()
    for cases in json.loads(Path(sys.argv[2]).read_text()):
        run_cases(Path(sys.argv[1]), cases)
    leave()
