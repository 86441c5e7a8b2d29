"""A run's directory: made fresh, what it says of how the run was started, and its end where the run never began."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from r1lit.settings import ConfigError

OVERRIDES = "overrides.yaml"
"""What a run was started with. Hydra's own copy changes with every command that names the run."""


def fresh(runs: str, name: str) -> str:
    """Make ``<runs>/<name>/<time>``, which no other run has.

    Raises:
        ConfigError: where that cannot be done.
    """
    parent, stamp = Path(runs) / name, time.strftime("%Y-%m-%d_%H-%M-%S")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for suffix in ["", *(f"_{number}" for number in range(2, 1000))]:
            with suppress(FileExistsError):
                (parent / f"{stamp}{suffix}").mkdir()
                return str(parent / f"{stamp}{suffix}")
        problem = f"it holds a thousand runs of {stamp}"
    except OSError as error:
        problem = f"it cannot be made or written ({error.strerror})"
    raise ConfigError([f"runs={runs}: {parent} is to hold the run, but {problem}; set runs=ANOTHER_FOLDER"])


def kept(directory: Path) -> dict[str, str]:
    """What says how a run was started, as it stands."""
    return {name: (directory / name).read_text() for name in ("config.yaml", OVERRIDES) if (directory / name).exists()}


def keep(directory: Path, texts: Mapping[str, str]) -> None:
    """Write what says how a run was started."""
    # Imported here so that a help page answers at once.
    from r1lit.callbacks.storage import replacing

    for name, text in texts.items():
        with replacing(directory / name) as part:
            part.write_text(text)


def discard(directory: Path) -> None:
    """Remove the directory of a run that never began."""
    if {path.name for path in directory.iterdir()} <= {".hydra", ".lock", "r1lit.log", "config.yaml", OVERRIDES}:
        _let_go(directory)
        shutil.rmtree(directory)
        with suppress(OSError):
            # It was made for this run alone, if nothing else is in it.
            directory.parent.rmdir()


def _let_go(directory: Path) -> None:
    """Log no more to a directory: a handler that a library has closed meanwhile, as vLLM does, would open it again."""
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, logging.FileHandler)]:
        if Path(handler.baseFilename).resolve().parent == directory.resolve():
            root.removeHandler(handler)
            handler.close()
