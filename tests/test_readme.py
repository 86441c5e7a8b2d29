"""Every command that the README and the help name composes, and every file they name is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from r1lit.__main__ import config_groups
from r1lit.overrides import prepare

ROOT = Path(__file__).resolve().parent.parent
PAGES = {page: (ROOT / page).read_text() for page in ("README.md", "plugins/README.md")}
# Rewards that the pages have the reader write, or that a clone's plugins folder holds.
READERS = {"reward": ["my_reward", "brevity"]}


def commands() -> list[str]:
    text = "\n".join(PAGES.values())
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.S | re.M)
    lines = [line.strip() for language, block in blocks if language in ("", "bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith(("r1lit ", "tools/"))]


def test_there_are_commands_to_check():
    assert len(commands()) >= 10
    assert {"tools/run", "tools/test"} <= set(commands())


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_readme_is_understood(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    program, *arguments = shlex.split(command.split("  #")[0])
    assert program == "r1lit" or (ROOT / program).exists()
    groups = config_groups()
    groups = {name: members + READERS.get(name, []) for name, members in groups.items()}
    _, problems = prepare([argument for argument in arguments if not argument.startswith("--")], groups)
    assert not problems


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", PAGES[page]):
        assert target.startswith("http") or (ROOT / page).parent.joinpath(target).exists(), target


def test_the_presets_of_the_table_are_those_there_are():
    named = set(re.findall(r"^\| `(\w+)`(?: \(.*\))? \| (?:token|sequence)", PAGES["README.md"], flags=re.M))
    assert named == set(config_groups()["algorithm"])
