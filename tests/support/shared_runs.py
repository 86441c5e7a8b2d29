"""Stages run by all processes of a launch, one after the other: torchrun's program, and what tests compare with.

``torchrun --nproc-per-node 2 shared_runs.py FOLDER CASES.json``: CASES maps a run's name to its overrides.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def run_cases(folder: Path, cases: Mapping[str, Sequence[str]]) -> None:
    """Run each case in ``folder/NAME``."""
    from composing import run_of

    from r1lit.stages.dispatch import run_stage

    for name, overrides in cases.items():
        run_stage(run_of(folder / name, *overrides), compose=None)


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parent))
    from r1lit.distributed.launch import join, leave

    join()
    run_cases(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))
    leave()
