"""Real vLLM servers for tests, each in a process group of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

PATIENCE_SECONDS = 600


def start(dtype: str, log: Path, model: str = "tiny", options: Sequence[str] = (), **environment: str):
    """A server process and its URL, once it answers; what it prints goes to ``log``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    small = ["--enforce-eager", "--kv-cache-memory-bytes", str(2**27), "--max-num-seqs", "64"]
    command = [sys.executable, "-m", "r1lit.rollout.vllm_serve", model, "--port", str(port), "--dtype", dtype, *small]
    with log.open("w") as output:
        server = subprocess.Popen(
            [*command, *options],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-4000:]
        try:
            with urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return server, f"http://127.0.0.1:{port}"
        except (URLError, OSError):
            time.sleep(0.5)
    stop(server)
    raise TimeoutError(log.read_text()[-4000:])


def stop(server: subprocess.Popen) -> None:
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
