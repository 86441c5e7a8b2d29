"""Where a step's time goes."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PHASE = "phase: "
"""What a profiler's name of a phase begins with."""


class PhaseTimer:
    """Adds up seconds by phase; phases do not nest, but several threads may be in one each. A profiler sees them as
    ranges.

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
                torch.cuda.synchronize()
            with self._lock:
                self._seconds[name] += time.perf_counter() - start

    def pop(self) -> dict[str, float]:
        """Seconds by phase since the last call, as metrics ``time/<phase>``."""
        with self._lock:
            seconds, self._seconds = self._seconds, defaultdict(float)
        return {f"time/{name}": value for name, value in seconds.items()}
