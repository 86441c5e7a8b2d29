"""Data flows one way: a module imports only from folders that stand above its own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import r1lit

PACKAGE = Path(r1lit.__file__).parent
ORDER = [
    "settings",
    "types",
    "functional",
    "text",
    "models",
    "distributed",
    "data",
    "rollout",
    "sandbox",
    "rewards",
    "curation",
    "modules",
    "callbacks",
    "stages",
    "report",
    "overrides",
    "__main__",
]
MODULES = sorted(PACKAGE.rglob("*.py"))


def layer(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(tree: ast.AST) -> set[str]:
    """The layers of r1lit that a module imports, wherever in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "r1lit" else {node.module}
            )
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("r1lit.")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_above(path):
    mine = layer(path)
    if mine == "__init__":
        return
    known = imported(ast.parse(path.read_text())) & set(ORDER)
    below = [other for other in known if ORDER.index(other) > ORDER.index(mine)]
    assert not below, f"{mine} stands above {below}"


def test_every_folder_has_its_place():
    assert {layer(path) for path in MODULES} <= {*ORDER, "__init__", "assets"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_command_sees_hydras_objects(path):
    if layer(path) in ("__main__", "overrides"):
        return
    roots = {
        (node.module or "").split(".")[0] if isinstance(node, ast.ImportFrom) else node.names[0].name.split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert not roots & {"hydra", "omegaconf"}


def test_reward_workers_start_without_torch():
    """They start beside the training, on the same cores: a second of imports each would be felt."""
    import subprocess
    import sys

    code = (
        "import sys, r1lit.rewards.worker, r1lit.rewards.accuracy, r1lit.rewards.format; print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
