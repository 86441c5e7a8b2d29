"""Looking through the plugin folders for mistakes that Hydra would answer with a traceback, or not at all."""

from __future__ import annotations

import pkgutil
import re
from collections import defaultdict
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import yaml

# Such a file says itself where its content belongs, and what it lacks may come from the defaults.
_PLACED = re.compile(r"^#\s*@package\b|^defaults\s*:", re.M)
_EXAMPLE = "half:\n  _target_: half.half"


def plugin_problems(paths: Iterable[str | Path]) -> list[str]:
    """What is wrong with the rewards' YAML files in plugin folders, and the names that two folders share.

    Args:
        paths: the plugin folders; a reward's YAML is ``conf/reward/<name>.yaml`` in one of them.
    """
    folders = [Path(path) for path in paths]
    files = [file for folder in folders for file in sorted(folder.glob("conf/reward/*.yaml"))]
    modules = [
        (module.name, Path(module.module_finder.path) / module.name)
        for folder in folders
        for module in pkgutil.iter_modules([str(folder)])
    ]
    return [
        *chain.from_iterable(map(_file_problems, files)),
        *_shared("reward files", [(file.stem, file) for file in files]),
        *_shared("modules", modules),
    ]


def _file_problems(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        return [f"{file} cannot be read: {error}; save it as UTF-8 text"]
    except yaml.YAMLError as error:
        mark, what = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        return [f"{file}{f':{mark.line + 1}' if mark else ''} is no YAML: {what}; mend that line or the one before"]
    if not isinstance(content, dict):
        held = "is empty" if content is None else f"holds {content!r:.60} instead of a reward's name"
        return [f"{file} {held}; write the name and, indented below it, what to call: {_EXAMPLE}"]
    if _PLACED.search(text):
        return []
    if "_target_" in content:
        body = f"_target_: {content['_target_']}"
        return [
            f"{file} has _target_ at the top level, where the reward's name belongs; indent it below the name: "
            f"{file.stem}:\n  {body}"
        ]
    return [
        f"{file}: {name} has no _target_, so there is nothing to call; write it below the name: "
        f"{name}:\n  _target_: module.function"
        for name, entry in content.items()
        if not (isinstance(entry, dict) and "_target_" in entry)
    ]


def _shared(what: str, named: Iterable[tuple[str, Path]]) -> list[str]:
    places: defaultdict[str, list[Path]] = defaultdict(list)
    for name, place in named:
        places[name].append(place)
    return [
        f"{len(found)} plugin folders have {what} named {name} ({', '.join(map(str, found))}), of which only the first "
        "would ever be used; rename one"
        for name, found in places.items()
        if len(found) > 1
    ]
