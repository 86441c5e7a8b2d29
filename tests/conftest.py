"""Shared by all tests: the threads they may use, a small random policy, and the command as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# Test processes run side by side with reward workers; spinning threads would slow all of them down.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

ROOT = Path(__file__).resolve().parent.parent
# What several test files share.
sys.path.append(str(ROOT / "tests" / "support"))

from warm import Warm, surroundings

LONGEST = [
    *("test_vllm_environment.py", "test_r1.py", "test_pipeline.py"),
    *("test_equal.py", "test_launch.py", "test_taking_up.py", "test_install.py"),
]
"""Modules that take minutes, to be begun first: one that begins last keeps a core idle."""


def pytest_collection_modifyitems(items):
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session")
def warm():
    """Runs ``r1lit`` without loading its libraries each time."""
    warm = Warm()
    yield warm
    warm.close()


@pytest.fixture
def r1lit(tmp_path, tmp_path_factory, warm):
    """Run the ``r1lit`` command in an empty directory, as a user would; gives the finished process."""

    def run(*arguments: str, cwd: Path = tmp_path, check: bool = True, timeout: float = 240, **environment: str):
        if surroundings() | environment == warm.environment:
            done = warm.run(arguments, cwd, timeout, scratch=tmp_path_factory.mktemp("streams"))
        else:
            # Libraries read the environment while they load.
            done = subprocess.run(
                [sys.executable, "-m", "r1lit", *arguments],
                cwd=cwd,
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
                timeout=timeout,
                stdin=subprocess.DEVNULL,
            )
        if check:
            assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run
