"""Where a step's time goes."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class PhaseTimer:
    """Adds up seconds by phase; phases do not nest, but several threads may be in one each.

    >>> timer = PhaseTimer()
    >>> with timer.phase("sample"):
    ...     pass
    >>> sorted(timer.pop())
    ['time/sample']
    """

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what runs inside; on CUDA up to the end of the work that it queued."""
        start = time.perf_counter()
        try:
            yield
        finally:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            with self._lock:
                self._seconds[name] += time.perf_counter() - start

    def pop(self) -> dict[str, float]:
        """Seconds by phase since the last call, as metrics ``time/<phase>``."""
        with self._lock:
            seconds, self._seconds = self._seconds, defaultdict(float)
        return {f"time/{name}": value for name, value in seconds.items()}
