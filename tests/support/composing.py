"""A run's settings, composed as the command would."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from r1lit.__main__ import config_directory, config_groups
from r1lit.overrides import prepare
from r1lit.stages.run import Run, read


def run_of(folder: Path, *overrides: str) -> Run:
    """The run that a command with these overrides would be, in a folder."""
    GlobalHydra.instance().clear()
    arguments, problems = prepare(overrides, config_groups())
    with initialize_config_dir(config_directory(), version_base="1.3"):
        config = compose("config", arguments)
    folder.mkdir(parents=True, exist_ok=True)
    return read(OmegaConf.to_container(config, resolve=True), folder, problems)
