from __future__ import annotations

import logging
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from r1lit.rewards.pool import RewardError, RewardPool
from r1lit.rewards.spec import RewardSettings
from r1lit.settings import ConfigError
from r1lit.types import Group, Prompt, Rollout, Sampling

REWARDS = """
import os, signal, subprocess, sys, threading, time

def length(completions): return [len(text) for text in completions]
def boolean(completions): return [text == "aa" for text in completions]
def raises(completions): raise KeyError("no such luck")
def exits(completions): sys.exit(3)
def dies(completions): os._exit(7)
def kills(completions): os.kill(os.getpid(), signal.SIGKILL)
def hangs(completions): time.sleep(60)
def nan(completions): return [float("nan"), float("inf"), 1.0]
def string(completions): return ["1.0", 2.0, [3.0]]
def one_string(completions): return "1.0"
def nothing(completions): return None
def huge(completions): return [10 ** 400] * len(completions)
def short(completions): return [1.0]
def abstains(completions): return [None, 1.0, None]
def noisy(completions):
    print("x" * 100_000)
    sys.stdout.flush()
    subprocess.run(["echo", "noise"])
    return [1.0] * len(completions)
def hoards(completions): return [float(len(bytearray(1 << 30))) for _ in completions]
def tail(completions): return [float(text[-1] == "b" and os._exit(1) or 1) for text in completions]
def slow_b(completions): return [time.sleep(60) if text == "bb" else 1.0 for text in completions]
def everything(prompts, completions, completion_ids, truncated, thoughts, answers, answer, scale=1.0):
    assert prompts == ["q"] * 3 and completion_ids == [[1], [2, 2], [3]] and truncated == [False, False, True]
    assert thoughts == [None, None, None] and answers == completions and answer == ["aa"] * 3
    return [scale * (a == b) for a, b in zip(completions, answer)]
def takes_all(completions, **columns): return [float(len(columns))] * len(completions)
def needs(completions, solution): return [1.0] * len(completions)
def shadowed(completions, answer): return [float(answer == "set")] * len(completions)
class Counter:
    def __init__(self, start=0): self.count = start
    def __call__(self, completions):
        self.count += 1
        return [self.count] * len(completions)
def make(value):
    return lambda completions: [value] * len(completions)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "samples.py").write_text(REWARDS)
    (folder / "broken.py").write_text("import no_such_package\n")
    (folder / "fatal.py").write_text("import os\nos._exit(5)\n")
    return folder


@pytest.fixture
def make_pool(folder: Path) -> Iterator[Any]:
    pools = []

    def make(workers: int = 1, **rewards: dict[str, Any]) -> RewardPool:
        specs = {}
        for name, options in rewards.items():
            options = {"_target_": f"samples.{name}", "max_failures": 1.0} | options
            specs[name] = RewardSettings.model_validate(options)
        pools.append(RewardPool(specs, workers=workers, plugin_paths=[folder]))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def rollout(*columns: dict[str, Any], completions: tuple[str, ...] = ("aa", "bb", "c")) -> Rollout:
    columns, size = columns or ({"answer": "aa"},), len(completions)
    ids = ([[1], [2, 2], [3]] * size)[:size]
    flags = ([False, False, True] * size)[:size]
    groups = tuple(Group(Prompt((1,), "q", column), ids, list(completions), flags) for column in columns)
    zeros = torch.zeros(size * len(groups), 2)
    return Rollout(groups, zeros.long(), zeros.bool(), zeros, Sampling())


def same(column: torch.Tensor, expected: list[float | None]) -> bool:
    return all(
        math.isnan(got) if want is None else got == want for got, want in zip(column.tolist(), expected, strict=True)
    )


def test_a_table_of_sound_rewards(make_pool):
    pool = make_pool(
        length={},
        boolean={"weight": 0.5},
        everything={"scale": 3.0, "weight": 0},
        takes_all={},
        abstains={},
        Counter={"start": 4},
        make={"factory": True, "value": 2.5},
        shadowed={"answer": "set"},
        noisy={},
    )
    scored = pool(rollout())
    assert scored.names == tuple(pool.rewards) and not scored.failures
    expected = {
        "length": [2, 2, 1],
        "boolean": [1, 0, 0],
        "everything": [3, 0, 0],
        "takes_all": [6, 6, 6],
        "abstains": [None, 1, None],
        "Counter": [5, 5, 5],
        "make": [2.5] * 3,
        "shadowed": [1] * 3,
        "noisy": [1] * 3,
    }
    for name, values in expected.items():
        assert same(scored.column(name), values), name
    assert scored.totals.tolist() == [2 + 0.5 + 6 + 5 + 2.5 + 1 + 1, 2 + 6 + 1 + 5 + 2.5 + 1 + 1, 1 + 6 + 5 + 2.5 + 2]
    assert pool.abstained == dict.fromkeys(pool.rewards, 0) | {"abstains": 2}
    assert same(pool(rollout()).column("Counter"), [6, 6, 6])


FAILURES = {
    "raises": ({"exception": 3}, [None] * 3, "KeyError: 'no such luck'"),
    "exits": ({"exception": 3}, [None] * 3, "SystemExit: 3"),
    "dies": ({"crash": 3}, [None] * 3, "exited with status 7"),
    "kills": ({"crash": 3}, [None] * 3, "killed by SIGKILL"),
    "hangs": ({"timeout": 3}, [None] * 3, "timeout of 0.5 s"),
    "nan": ({"nan": 2}, [None, None, 1.0], "returned nan"),
    "string": ({"wrong_type": 2}, [None, 2.0, None], "returned '1.0'"),
    "one_string": ({"wrong_type": 3}, [None] * 3, "return a list"),
    "nothing": ({"wrong_type": 3}, [None] * 3, "returned None"),
    "huge": ({"exception": 3}, [None] * 3, "OverflowError"),
    "short": ({"wrong_count": 3}, [None] * 3, "1 values for 3 completions"),
    "hoards": ({"exception": 3}, [None] * 3, "MemoryError"),
    "needs": ({"exception": 3}, [None] * 3, "the reward needs solution"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_become_none_and_are_counted(make_pool, caplog: pytest.LogCaptureFixture, name: str):
    counts, values, message = FAILURES[name]
    options = {"timeout": 0.5} if name == "hangs" else {}
    pool = make_pool(**{name: options | {"memory_mb": 256}, "length": {}})
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            scored = pool(rollout())
            assert scored.failures == {name: counts}
            assert same(scored.column(name), values) and same(scored.column("length"), [2, 2, 1])
            assert pool.abstained[name] == 0
    told = [record.getMessage() for record in caplog.records if f"reward {name} failed" in record.getMessage()]
    assert len(told) == 1 and message in told[0]


@pytest.mark.parametrize(("name", "reason"), [("tail", "crash"), ("slow_b", "timeout")])
def test_rowwise_rewards_lose_only_the_row(make_pool, name: str, reason: str):
    pool = make_pool(length={"rowwise": True}, **{name: {"rowwise": True, "timeout": 0.5}})
    scored = pool(rollout({}, {}))
    assert scored.failures == {name: {reason: 2}}
    assert same(scored.column(name), [1, None, 1] * 2) and same(scored.column("length"), [2, 2, 1] * 2)


def test_too_many_failures_stop_the_run(make_pool):
    pool = make_pool(nan={"max_failures": 0.5})
    with pytest.raises(RewardError) as caught:
        pool(rollout())
    for part in (
        "reward nan (samples.nan) failed on 2 of 3 rows (67%: nan 2)",
        "max_failures=0.5",
        "returned nan",
        "reward.nan.max_failures",
    ):
        assert part in str(caught.value)
    assert make_pool(nan={"max_failures": 0.67})(rollout()).failures == {"nan": {"nan": 2}}


def test_a_reward_that_always_hangs_stops_the_run_early(make_pool, caplog: pytest.LogCaptureFixture):
    pool = make_pool(hangs={"rowwise": True, "timeout": 0.5, "max_failures": 0.2}, length={})
    pool.start()
    start = time.monotonic()
    with caplog.at_level(logging.WARNING), pytest.raises(RewardError) as caught:
        pool(rollout(*[{}] * 8, completions=("a", "b", "c", "d")))
    assert time.monotonic() - start < 10, "all 32 rows take 16 s"
    for part in ("reward hangs (samples.hangs) failed on 8 of 32 rows (25%: timeout 8; 24 not judged any more)",
                 "max_failures=0.2", "timeout of 0.5 s"):
        assert part in str(caught.value)
    assert sum("reward hangs failed (timeout" in record.getMessage() for record in caplog.records) == 1
    with pytest.raises(RewardError, match="3 of 3 rows"):
        pool(rollout())
    assert pool._child is None


def test_a_pool_works_on_after_an_early_end(make_pool):
    pool = make_pool(raises={"max_failures": 0.3, "when": {"task": "bad"}}, length={})
    bad = {"task": "bad"}
    with pytest.raises(RewardError, match=r"samples\.raises\) failed on 6 of 12 rows"):
        pool(rollout(bad, bad, bad, bad))
    scored = pool(rollout({}, {}))
    assert same(scored.column("length"), [2, 2, 1] * 2) and not scored.failures


def test_routing(make_pool):
    pool = make_pool(
        length={"when": {"task": ["math", "code"]}},
        boolean={"when": {"task": "logic", "level": 3}},
        raises={"when": {"task": "never"}},
    )
    scored = pool(rollout({"task": "math"}, {"task": "logic", "level": 3}, {"task": "logic", "level": 4}, {}))
    assert same(scored.column("length"), [2, 2, 1] + [None] * 9)
    assert same(scored.column("boolean"), [None] * 3 + [1, 0, 0] + [None] * 6)
    assert not scored.failures and pool.abstained == dict.fromkeys(pool.rewards, 0)


def test_groups_are_scored_while_others_are_sampled(make_pool):
    pool = make_pool(length={}, Counter={})
    whole = rollout({}, {}, {})
    pool.start()
    for index in (2, 0):
        pool.submit(index, whole.groups[index])
    scored = pool.gather(whole)
    assert same(scored.column("Counter"), [2] * 3 + [3] * 3 + [1] * 3)


def test_workers_share_the_groups(make_pool):
    pool = make_pool(workers=2, hangs={"timeout": 2.0})
    pool.start()
    start = time.monotonic()
    pool(rollout({}, {}))
    assert time.monotonic() - start < 3.8, "one after the other they take 4 s"


def test_a_broken_off_round_leaves_nothing_behind(make_pool):
    pool = make_pool(length={})
    for index in (0, 1):
        pool.submit(index, rollout(completions=("aaaa", "bbbb", "cccc")).groups[0])
    assert same(pool(rollout()).column("length"), [2, 2, 1])
    assert same(pool(rollout({}, {})).column("length"), [2, 2, 1] * 2)


def test_what_cannot_be_loaded_is_told_before_the_run(make_pool):
    pool = make_pool(
        lenght={},
        length={"wieght": 2},
        noisy={"_target_": "sample.noisy"},
        nan={"_target_": "broken.nan"},
        exits={"_target_": "r1lit.rewards.acuracy.accuracy"},
        make={"factory": True, "value": 1},
        dies={"_target_": "fatal.dies"},
    )
    with pytest.raises(ConfigError) as caught:
        pool.start()
    problems = "\n".join(caught.value.problems)
    for part in (
        "reward.lenght: samples has no 'lenght'; did you mean length?",
        "reward.length: 'wieght' is neither a setting nor an argument of the reward",
        "reward.noisy: there is no module 'sample', neither installed nor in a plugins folder",
        "did you mean samples?",
        "reward.nan: ModuleNotFoundError: No module named 'no_such_package'",
        "reward.exits: r1lit.rewards has no module 'acuracy'; did you mean accuracy?",
        "reward.dies: while it was being loaded, the reward's process ended: it exited with status 5",
    ):
        assert part in problems
    assert len(caught.value.problems) == 6


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="no rewards"):
        RewardPool({})
    with pytest.raises(ValueError, match="no dotted path"):
        RewardSettings.model_validate({"_target_": "length"})
    with pytest.raises(ValueError, match="greater than 0"):
        RewardSettings.model_validate({"_target_": "a.b", "timeout": 0})


def test_a_lost_supervisor_is_an_error_and_a_new_start_works(make_pool):
    pool = make_pool(length={})
    pool.start()
    os.kill(pool._child.process.pid, signal.SIGKILL)
    with pytest.raises(RewardError, match="has gone"):
        pool(rollout())
    assert same(pool(rollout()).column("length"), [2, 2, 1])


def test_a_closed_pool_is_not_started_again(make_pool):
    """By a rollout that is under way in another thread: it ends, and no process is left."""
    pool, ended = make_pool(hangs={"timeout": 60.0}), queue.SimpleQueue()
    pool.start()

    def roll_out() -> None:
        for call in (lambda: pool(rollout()), lambda: pool.submit(0, rollout().groups[0]), lambda: pool(rollout())):
            try:
                ended.put(call())
            except RewardError as error:
                ended.put(str(error))

    others = children(os.getpid())
    thread = threading.Thread(target=roll_out, daemon=True)
    thread.start()
    time.sleep(0.5)
    supervisor = pool._child.process
    workers = children(supervisor.pid)
    assert workers and children(os.getpid()) == others
    pool.close()
    thread.join(30)
    assert not thread.is_alive() and supervisor.poll() == 0, "it was asked to end, and not killed"
    assert [ended.get_nowait() for _ in range(3)] == ["the rewards were closed, so nothing is scored any more"] * 3
    assert children(os.getpid()) == others - {supervisor.pid}
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        time.sleep(0.05)


def children(pid: int) -> set[int]:
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return {int(child) for path in lists for child in path.read_text().split()}


def test_bombs_cost_at_most_their_limits(make_pool):
    pool = make_pool(
        accuracy={"_target_": "r1lit.rewards.accuracy.accuracy", "rowwise": True, "timeout": 5.0, "memory_mb": 512}
    )
    bombs = rollout({"answer": r"\sqrt{2}"}, completions=(r"\sqrt2", "9^{9^{9}}", r"2^{\frac12}"))
    scored = pool(bombs)
    assert same(scored.column("accuracy"), [1, None, 1])
    assert sum(scored.failures["accuracy"].values()) == 1
    start = time.monotonic()
    scored = pool(rollout({"answer": r"\binom{n}{2}"}, completions=("x", r"\binom{1000000000}{500000000}", "1")))
    assert same(scored.column("accuracy"), [0, None, 0])
    assert time.monotonic() - start < 15


def test_workers_load_nothing_heavy():
    program = (
        "import sys, r1lit.rewards.worker, r1lit.rewards.supervisor, r1lit.rewards.accuracy, r1lit.rewards.format\n"
        "print(*(sys.modules.keys() & {'torch', 'lightning', 'transformers', 'numpy', 'sympy', 'hydra'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
