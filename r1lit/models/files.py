"""Where a model's files are, and reading them, whatever is wrong with them."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from r1lit.models.adapters import adapter_folder, base_of
from r1lit.settings import suggest

TINY = "tiny"
EMBEDDED = {TINY: "tiny", "tiny-student": "tiny_student"}
"""Models that ship with r1lit, by name: their folders in ``r1lit/assets``."""


def path_problem(name: str) -> str | None:
    """What is wrong with a model's path, as far as can be told without loading anything."""
    try:
        locate(name)
    except (FileNotFoundError, ValueError) as error:
        return str(error)
    return None


def locate(name: str) -> str:
    """Where the model is: a folder that holds one, or the name itself if the hub might know it; of adapters, where
    their base is.

    Raises:
        FileNotFoundError: for a folder that is missing, or that holds no config or no weights.
        ValueError: for pickled weights.
    """
    embedded = EMBEDDED.get(name)
    folder = Path(str(files("r1lit") / "assets" / embedded)) if embedded else Path(name).expanduser()
    if not folder.exists():
        if not embedded and name.count("/") <= 1 and name[0] not in "./~":
            return name
        siblings = [str(item) for item in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise FileNotFoundError(f"model.path={name}: no such folder; {suggest(str(folder), siblings)}")
    if adapters := adapter_folder(name):
        return locate(base_of(adapters))
    if not (folder / "config.json").is_file():
        held = ", ".join(sorted(item.name for item in folder.iterdir())) if folder.is_dir() else "it is a file"
        raise FileNotFoundError(
            f"model.path={name} has no config.json (it holds: {held or 'nothing'}); give a saved model's folder"
        )
    if not any(folder.glob("*.safetensors")):
        if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
            raise ValueError(
                f"model.path={name} holds pickled weights only, which can run code when loaded; convert them with "
                "transformers' save_pretrained, which writes safetensors"
            )
        raise FileNotFoundError(f"model.path={name} has no *.safetensors; give a folder with weights")
    return str(folder)


def load_part(what: str, name: str, kind: type, path: str, **options):
    """``kind.from_pretrained``, which never runs the model's own code.

    Raises:
        ValueError: naming the model and what of it cannot be loaded.
    """
    try:
        return kind.from_pretrained(path, trust_remote_code=False, **options)
    except (OSError, ValueError, ImportError, KeyError) as error:
        known = [*EMBEDDED, *(item.name for item in Path().iterdir() if (item / "config.json").is_file())]
        hint = "" if Path(path).exists() else f"; no local folder has this name ({suggest(name, known)})"
        raise ValueError(f"model.path={name}: its {what} cannot be loaded{hint}: {error}") from error
