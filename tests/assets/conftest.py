from __future__ import annotations

import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="module")
def tool():
    """The modules that made the model."""
    sys.path.insert(0, str(TOOLS))
    try:
        import make_tiny_base

        yield make_tiny_base
    finally:
        sys.path.remove(str(TOOLS))
