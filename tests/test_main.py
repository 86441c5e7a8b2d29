"""How the command leaves, beside what whole runs show of it."""

from __future__ import annotations

import logging
from logging.config import dictConfig

from r1lit.stages.directory import discard


def test_a_refused_run_logs_no_more_to_its_directory(tmp_path):
    """vLLM configures logging, which closes all handlers; a closed one would open its file again, in no directory."""
    directory = tmp_path / "run"
    directory.mkdir()
    root, handler = logging.getLogger(), logging.FileHandler(directory / "r1lit.log")
    root.addHandler(handler)
    try:
        dictConfig({"version": 1, "disable_existing_loggers": False})
        discard(directory)
        root.error("the reason")
        assert not directory.exists()
    finally:
        root.removeHandler(handler)
