"""Where a step's time goes."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

PHASE = "phase: "
"""What a profiler's name of a phase begins with."""

BESIDE = "beside/"
"""What the name begins with under which a phase's seconds in other threads stand once more."""


class PhaseTimer:
    """Adds up seconds by phase; phases do not nest, but several threads may be in one each. A profiler sees them as
    ranges.

    What other threads than the one that made it spend goes on beside that one's phases, and is told apart.

    >>> timer = PhaseTimer()
    >>> with timer.phase("sample"):
    ...     pass
    >>> sorted(timer.pop())
    ['time/sample']
    """

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        self._own = threading.local()
        self._home = threading.get_ident()

    @property
    def current(self) -> str | None:
        """The phase that the calling thread is in."""
        return getattr(self._own, "phase", None)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what runs inside; on CUDA up to the end of the work that it queued."""
        start, self._own.phase = time.perf_counter(), name
        try:
            with torch.profiler.record_function(PHASE + name):
                yield
        finally:
            self._own.phase = None
            if torch.cuda.is_available():
                # Not the whole device: another thread may be recording a graph there, which that would break.
                torch.cuda.current_stream().synchronize()
            seconds = time.perf_counter() - start
            with self._lock:
                self._seconds[name] += seconds
                if threading.get_ident() != self._home:
                    self._seconds[BESIDE + name] += seconds

    def pop(self) -> dict[str, float]:
        """Seconds by phase since the last call, as metrics ``time/<phase>``; ``time/beside/<phase>`` are those of them
        that other threads spent."""
        with self._lock:
            seconds, self._seconds = self._seconds, defaultdict(float)
        return {f"time/{name}": value for name, value in seconds.items()}


def parted(seconds: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds by phase that the training itself spent, which add up to its steps, and those that went on beside it.

    >>> parted({"sample": 5.0, "beside/sample": 4.0, "score": 1.0, "beside/score": 1.0, "update": 3.0})
    ({'sample': 1.0, 'update': 3.0}, {'sample': 4.0, 'score': 1.0})
    """
    beside = {name.removeprefix(BESIDE): value for name, value in seconds.items() if name.startswith(BESIDE)}
    own = {name: value - beside.get(name, 0.0) for name, value in seconds.items() if not name.startswith(BESIDE)}
    # What is left of sums is not exact.
    return {name: value for name, value in own.items() if name not in beside or value > 1e-6}, beside
