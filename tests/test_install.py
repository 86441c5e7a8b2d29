"""The ways in: a wheel in any environment, and the scripts of a clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True)
    (built,) = folder.glob("r1lit-*.whl")
    return built


def test_the_wheel_carries_conf_and_the_tiny_model(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for expected in (
        "conf/config.yaml",
        "conf/reward/accuracy.yaml",
        "assets/tiny/model.safetensors",
        "assets/tiny_student/model.safetensors",
        "rewards/pool.py",
    ):
        assert f"r1lit/{expected}" in names
    assert {name.split("/")[0] for name in names} == {"r1lit", next(n for n in names if "dist-info" in n).split("/")[0]}


def test_an_installed_wheel_runs_from_any_directory(wheel, tmp_path):
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True)
    code = "import r1lit, sys; sys.stderr.write(r1lit.__file__ + '\\n'); from r1lit.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "stage=preflight", "preflight.prompts=2"],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(str(site))
    assert "pre-flight: pass@1" in done.stderr


def without_python(tmp_path: Path, version: str) -> dict[str, str]:
    """A PATH whose only Python is one that says it is too old."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "env", "dirname", "cmp", "cat", "flock"):
        (tools / name).symlink_to(shutil.which(name))
    (tools / "python3").write_text(f'#!/bin/bash\n[ "$1" = --version ] && echo "Python {version}"\nexit 1\n')
    (tools / "python3").chmod(0o755)
    return {"PATH": str(tools), "HOME": str(tmp_path)}


@pytest.mark.parametrize("script", ["run", "test"])
def test_the_scripts_say_what_is_missing(tmp_path, script):
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / "tools", clone / "tools")
    shutil.copy(ROOT / "pyproject.toml", clone)
    done = subprocess.run(
        [shutil.which("bash"), str(clone / "tools" / script)],
        env=without_python(tmp_path, "3.8.1"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "r1lit needs Python 3.11 or newer" in done.stderr and "Python 3.8.1" in done.stderr
    assert not (clone / ".venv").exists()


def test_the_scripts_run_from_any_directory(tmp_path):
    done = subprocess.run([str(ROOT / "tools" / "run"), "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "The ten settings people change most" in done.stdout
