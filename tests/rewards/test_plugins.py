from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from r1lit.rewards.plugins import plugin_problems

ROOT = Path(__file__).resolve().parents[2]


def plugin(folder: Path, name: str, text: str | bytes = "", module: str = "") -> Path:
    file = folder / "conf" / "reward" / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    text = text or f"{name}:\n  _target_: {name}.{name}\n"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    (folder / f"{module or name}.py").write_text("")
    return file


def test_the_worked_example_and_sound_folders_have_no_problems(tmp_path: Path):
    plugin(tmp_path / "one", "mine")
    plugin(tmp_path / "one", "two", "a:\n  _target_: b.c\nd:\n  _target_: e.f\n  weight: 0\n")
    plugin(tmp_path / "two", "placed", "# @package reward.placed\n_target_: placed.placed\n")
    plugin(tmp_path / "two", "derived", "defaults: [accuracy]\naccuracy:\n  weight: 2\n")
    assert plugin_problems([ROOT / "plugins", tmp_path / "one", tmp_path / "two"]) == []
    assert plugin_problems([]) == plugin_problems([tmp_path]) == []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("half:\n  _target_: half.half\n weight: 1\n", ["half.yaml:3 is no YAML"]),
        ("half: [1\n", ["half.yaml:2 is no YAML", "expected ',' or ']'"]),
        ("half:\n\t_target_: a.b\n", ["half.yaml:2 is no YAML", r"cannot start any token"]),
        ("half: \x07\n", ["half.yaml is no YAML", "special characters are not allowed"]),
        (b"half: \xff\n", ["half.yaml cannot be read", "UTF-8"]),
        ("\n", ["half.yaml is empty", "half:\n  _target_: "]),
        ("- a\n", ["half.yaml holds ['a'] instead of a reward's name"]),
        ("half.half\n", ["half.yaml holds 'half.half' instead"]),
        ("_target_: half.half\nweight: 1\n",
         ["_target_ at the top level", "indent it below the name: half:\n  _target_: half.half"]),
        ("half:\n  weight: 1\n", ["half.yaml: half has no _target_"]),
        ("half: half.half\n", ["half.yaml: half has no _target_"]),
        ("half:\n_target_: half.half\n", ["_target_ at the top level"]),
    ],
)
def test_a_wrong_file_is_named_with_the_remedy(tmp_path: Path, text: str | bytes, parts: list[str]):
    plugin(tmp_path, "half", text)
    plugin(tmp_path, "fine")
    (problem,) = plugin_problems([tmp_path])
    for part in [str(tmp_path / "conf" / "reward" / "half.yaml"), *parts]:
        assert part in problem


def test_all_problems_come_together(tmp_path: Path):
    plugin(tmp_path, "a", "a:\n")
    plugin(tmp_path, "b", "b: {\n")
    plugin(tmp_path, "c", "c: {}\nd: {}\n")
    assert [problem.partition(":")[0][-6:] for problem in plugin_problems([tmp_path])] == ["a.yaml", "b.yaml"] + [
        "c.yaml"
    ] * 2


def test_two_folders_with_the_same_names(tmp_path: Path):
    first, second = plugin(tmp_path / "one", "mine"), plugin(tmp_path / "two", "mine", module="other")
    (problem,) = plugin_problems([tmp_path / "one", tmp_path / "two"])
    assert problem.startswith("2 plugin folders have reward files named mine (")
    assert str(first) in problem and str(second) in problem and problem.endswith("rename one")
    package = tmp_path / "two" / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    _, problem = plugin_problems([tmp_path / "one", tmp_path / "two"])
    assert "modules named mine" in problem and str(tmp_path / "one" / "mine") in problem and str(package) in problem


def test_nothing_heavy_is_loaded():
    program = (
        "import sys, r1lit.rewards.plugins\n"
        "print(*(sys.modules.keys() & {'torch', 'lightning', 'transformers', 'numpy', 'hydra', 'omegaconf'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""
