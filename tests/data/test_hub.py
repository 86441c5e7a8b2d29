"""Data sets by name: fetched from a server on this machine that plays the hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from r1lit.data.files import HubError
from r1lit.data.settings import SourceSettings
from r1lit.data.sources import read_rows

FILES = {
    "one.jsonl": b'{"prompt": "a"}\n{"prompt": "b"}\n',
    "two.json": b'[{"prompt": "c"}]',
}
PROGRAM = """
import json, sys
from r1lit.data.settings import SourceSettings
from r1lit.data.sources import read_rows
source = SourceSettings(hub="some/set", files=sys.argv[1:])
print(json.dumps([[row.columns.get("prompt"), row.origin] for row in read_rows(source)]))
"""


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download needs: where a file is, in which version, and its bytes."""

    def do_HEAD(self) -> None:
        content = FILES.get(self.path.removeprefix("/datasets/some/set/resolve/main/"))
        self.send_response(200 if content is not None else 404)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{len(content or b"")}"')
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(FILES.get(self.path.removeprefix("/datasets/some/set/resolve/main/"), b""))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def read(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    here = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}

    def read(*files: str) -> subprocess.CompletedProcess:
        environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        command = [sys.executable, "-c", PROGRAM, *files]
        return subprocess.run(command, env=environment | here, capture_output=True, text=True, timeout=120)

    yield read
    server.shutdown()
    server.server_close()


def test_files_of_a_data_set_are_fetched_and_read_one_after_another(read):
    done = read("two.json", "one.jsonl")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        ["c", "some/set/two.json:1"],
        ["a", "some/set/one.jsonl:1"],
        ["b", "some/set/one.jsonl:2"],
    ]


def test_a_file_that_is_not_there_is_told_of(read):
    done = read("three.jsonl")
    assert "HubError: some/set/three.jsonl cannot be fetched from the Hugging Face hub" in done.stderr


@pytest.mark.parametrize("files", [[], ["one.jsonl"]])
def test_without_the_hub_there_is_an_error_of_its_own(files, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(HubError, match="some/set"):
        list(read_rows(SourceSettings(hub="some/set", files=files, split=None if files else "test")))
