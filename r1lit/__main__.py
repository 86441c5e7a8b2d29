"""The ``r1lit`` command: composes a configuration with Hydra, checks all of it, and runs one stage."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import hydra
import yaml
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import CompactHydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

import r1lit
from r1lit.distributed.failing import from_first, leave_with, together
from r1lit.distributed.launch import join, launched, leave
from r1lit.overrides import key_of, prepare, resumed
from r1lit.rewards.plugins import plugin_problems
from r1lit.rewards.targets import plugin_paths
from r1lit.settings import SIGNALLED, ConfigError, UserError
from r1lit.stages.directory import OVERRIDES, discard, fresh, keep, kept

# Torch's threads spin at their barriers; beside reward workers, or on a shared machine, that makes a step several times
# slower than waiting does. Read when torch is loaded, which is why it stands here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

PACKAGE = Path(r1lit.__file__).parent


def config_directory() -> str:
    """``conf/``: inside the installed package, or beside it in a checkout."""
    inside = PACKAGE / "conf"
    return str(inside if inside.is_dir() else PACKAGE.parent / "conf")


class PluginSearchPath(SearchPathPlugin):
    """Lets Hydra find the YAML of drop-in rewards."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in plugin_paths():
            if (folder / "conf").is_dir():
                search_path.append("r1lit-plugins", f"file://{folder / 'conf'}")


@cache
def run_directory(runs: str, name: str) -> str:
    """A fresh ``<runs>/<name>/<time>``, made at once so that two runs of one second never share it; the same one in all
    processes of a run."""
    try:
        return from_first(f"directory/{runs}/{name}", lambda: fresh(runs, name))
    except UserError as error:
        # Hydra asks for the directory in the middle of composing, where it would bury an exception under its own, and
        # would log it to the terminal.
        leave_with(error, logged=False)


@contextmanager
def composing() -> Iterator[None]:
    """A Hydra that composes from ``conf/``, also in the middle of a job of Hydra's own."""
    current, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        with hydra.initialize_config_dir(config_directory(), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = current


@cache
def config_groups() -> dict[str, list[str]]:
    """The members of every config group, drop-in rewards and those of folders within (``claims/language``) included."""
    with composing():
        loader = GlobalHydra.instance().config_loader()

        def options(group: str) -> list[str]:
            inside = [f"{name}/{member}" for name in loader.list_groups(group) for member in options(f"{group}/{name}")]
            return [*loader.get_group_options(group), *inside]

        return {name: options(name) for name in loader.list_groups("") if name != "hydra"}


class JobError(CompactHydraException):
    """How a run of a sweep ended; Hydra shows it without a traceback."""


def run(config: DictConfig, problems: Sequence[str] = ()) -> float | None:
    """Run the stage that a composed configuration asks for; ``problems`` are mistakes that were found before.

    Returns:
        What a sweep maximises: accuracy on held-out prompts, where the stage measures it.
    """
    # Imported here so that --help and a misspelt override answer at once.
    from r1lit.report.conclude import conclude
    from r1lit.report.sweep import objective
    from r1lit.stages.dispatch import run_stage
    from r1lit.stages.run import RESUMABLE, read

    directory, first = Path(HydraConfig.get().runtime.output_dir), launched().first
    typed = list(HydraConfig.get().overrides.task)
    before = kept(directory)
    try:
        # From here on the first process may remove what all have made.
        together()
        found = [*problems, *_unheard(config, typed)]
        settings = read(OmegaConf.to_container(config, resolve=True), directory, found)

        def accept() -> None:
            if settings.command.stage in RESUMABLE and not settings.command.dry_run:
                own = yaml.safe_dump([o for o in typed if key_of(o) not in ("resume", "force")])
                keep(directory, {"config.yaml": OmegaConf.to_yaml(config, resolve=True), OVERRIDES: own})

        run_stage(settings, composed, accept)
        if not first:
            return None
        if settings.command.dry_run:
            discard(directory)
        else:
            conclude(directory)
        return objective(directory)
    except UserError as error:
        if isinstance(error, ConfigError) and first:
            # What was refused does not hold the next time.
            keep(directory, before)
        # The other runs of a sweep go on, unless the user has stopped this one.
        if HydraConfig.get().mode == RunMode.MULTIRUN and error.exit_code < SIGNALLED:
            raise _refused(error, directory) from error
        if isinstance(error, ConfigError) and first:
            discard(directory)
        leave_with(error)


QUIET = (
    "hydra.output_subdir=null",
    "~hydra.job_logging.handlers.file",
    "hydra.job_logging.root.handlers=[console]",
    "hydra.job_logging.handlers.console.level=ERROR",
)
"""What every process but the first tells Hydra: to write nothing, and to say what goes wrong alone."""


def _among_others(arguments: Sequence[str]) -> list[str]:
    """The arguments of this process of a run.

    Raises:
        ConfigError: for a sweep, whose runs Hydra would start one by one in each process.
    """
    if launched().size > 1 and {"-m", "--multirun"} & set(arguments):
        found = f"{launched().by} has started {launched().size} processes of one run"
        raise ConfigError([f"-m is a sweep, but {found}; start a W&B agent, and have it start the processes"])
    return [*arguments, *(() if launched().first else QUIET)]


CHAIN = ("pipeline", "stage", "experiment", "name", "seed", "runs", "resume", "force", "dry_run", "hydra")
"""What a chain of stages hears of what is typed; its steps hear what the chain sets for them."""


def _unheard(config: DictConfig, typed: Sequence[str]) -> list[str]:
    """What was typed beside a chain and would reach none of its steps."""
    keys = [key_of(override) for override in typed] if config.get("stage") == "pipeline" else []
    return [
        f"{key} is typed beside a chain, whose steps do not hear it; set it for all of them, "
        f"pipeline.common.set.{key}=... (a group: pipeline.common.use.{key}=...), or for one, "
        f"pipeline.steps.NAME.set.{key}=..."
        for key in keys
        if key.replace("/", ".").split(".")[0] not in CHAIN
    ]


def composed(overrides: Sequence[str]) -> tuple[dict, list[str]]:
    """The configuration that a command with these overrides would have, and what is wrong with them."""
    arguments, problems = prepare(list(overrides), config_groups())
    with composing():
        return OmegaConf.to_container(hydra.compose("config", arguments), resolve=True), problems


def _refused(error: UserError, directory: Path) -> JobError:
    """Tell how a run of a sweep ended, and leave a word for the sweep's table where the run did not begin."""
    print(f"r1lit: {error}", file=sys.stderr)
    summary = directory / "summary.json"
    if not summary.exists():
        summary.write_text(json.dumps({"status": "refused", "reason": str(error)}, indent=2) + "\n")
    return JobError(f"r1lit: {directory} did not finish, for the reason given above")


def _require_plugins(arguments: Sequence[str]) -> None:
    """Refuse what needs a plugin of Hydra that is not there: Hydra would list what is, and no remedy."""
    asked = sorted({"sweep=optuna", "hydra/sweeper=optuna"} & set(arguments))
    if asked and not any(kind.__name__ == "OptunaSweeper" for kind in Plugins.instance().discover(Sweeper)):
        raise ConfigError([f"{asked[0]} needs the optuna extra, which is not installed: pip install 'r1lit[optuna]'"])


def main() -> None:
    """Entry point of the ``r1lit`` command."""
    OmegaConf.register_new_resolver("r1lit.run_dir", run_directory, replace=True)
    Plugins.instance().register(PluginSearchPath)
    join()
    try:
        if broken := plugin_problems(plugin_paths()):
            raise ConfigError(broken)
        arguments, problems = prepare(_among_others(resumed(sys.argv[1:])), config_groups())
        _require_plugins(arguments)
        if problems and any(argument.startswith("-") for argument in arguments):
            raise ConfigError(problems)
    except UserError as error:
        leave_with(error)
    sys.argv[1:] = arguments

    sweeps: list[Path] = []

    def task(config: DictConfig) -> float | None:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            sweeps.append(Path(HydraConfig.get().sweep.dir))
        return run(config, problems)

    try:
        hydra.main(config_directory(), "config", version_base="1.3")(task)()
    finally:
        _compare(sweeps)
    leave()


def _compare(sweeps: Sequence[Path]) -> None:
    """The table of each sweep that has run."""
    for directory in dict.fromkeys(sweeps):
        from r1lit.report.sweep import conclude_sweep

        conclude_sweep(directory)


if __name__ == "__main__":
    main()
