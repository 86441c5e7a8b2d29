"""One process fails, and the other ends for the same reason instead of waiting for it."""

from __future__ import annotations

import socket
import subprocess
import sys

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


def test_what_the_first_refuses_ends_the_others_quietly(tmp_path):
    """As srun starts them: nobody ends the other, which waits for the run's directory."""
    (tmp_path / "a_file").touch()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    both = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "x"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "r1lit", "trainer=ddp", "trainer.accelerator=cpu", "runs=a_file"],
            cwd=tmp_path,
            env=environment(**place, **both, RANK=rank, LOCAL_RANK=rank),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in "01"
    ]
    first, other = (process.communicate(timeout=200)[0] for process in processes)
    assert [process.returncode for process in processes] == [2, 1], first + other
    assert first.count("set runs=ANOTHER_FOLDER") == 1
    assert other.strip() == "r1lit: stopped, because process 0 could not begin"
