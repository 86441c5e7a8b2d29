"""One process fails, and the other ends for the same reason instead of waiting for it."""

from __future__ import annotations

import subprocess

from launching import TORCHRUN, environment

PROGRAM = """
import sys
from r1lit.distributed.failing import one_for_all
from r1lit.distributed.launch import first_to_say, join, launched
from r1lit.distributed.ranks import Ranks
from r1lit.settings import UserError

join()
ranks = Ranks(launched().rank, launched().size)
assert ranks.gather(ranks.rank) == [0, 1] and ranks.largest(ranks.rank) == 1 and ranks.from_first(ranks.rank) == 0
assert [real for _, real in Ranks(ranks.rank, 2, lockstep=True).level(range(1 + ranks.rank), int)] == [
    True, ranks.rank == 1
]
if first_to_say("hello"):
    print("hello", flush=True)
try:
    with one_for_all():
        if ranks.rank == 1:
            raise UserError("the disk is full")
        ranks.gather("waiting")
except UserError as error:
    print(type(error).__name__, error, flush=True)
    sys.exit(3)
"""


def test_a_failure_of_one_is_told_by_the_other(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [*TORCHRUN, "--standalone", "--nproc-per-node", "2", program],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode != 0
    # torchrun may end the other before it has said so.
    assert done.stdout.count("hello") == 1 and "UserError the disk is full" in done.stdout, done.stdout + done.stderr
