"""The programs in tools/ that measure can be loaded: what they import is there."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parent.parent / "tools"


@pytest.mark.parametrize("name", sorted(path.stem for path in TOOLS.glob("bench*.py")))
def test_a_bench_loads(name, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(TOOLS)])
    assert callable(getattr(importlib.import_module(name), "main", None)) or name == "benching"
