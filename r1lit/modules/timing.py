"""Where a step's time goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PHASE = "phase: "
"""What a profiler's name of a phase begins with."""


class PhaseTimer:
    """Adds up seconds by phase; phases do not nest. A profiler sees them as ranges.

    Attributes:
        current: the phase that runs now.

    >>> timer = PhaseTimer()
    >>> with timer.phase("sample"):
    ...     pass
    >>> sorted(timer.pop())
    ['time/sample']
    """

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self.current: str | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what runs inside; on CUDA up to the end of the work that it queued."""
        start, self.current = time.perf_counter(), name
        try:
            with torch.profiler.record_function(PHASE + name):
                yield
        finally:
            self.current = None
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self._seconds[name] += time.perf_counter() - start

    def pop(self) -> dict[str, float]:
        """Seconds by phase since the last call, as metrics ``time/<phase>``."""
        seconds, self._seconds = self._seconds, defaultdict(float)
        return {f"time/{name}": value for name, value in seconds.items()}
