"""A real HTTP server on this machine that plays an OpenAI-compatible chat endpoint."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any], int], "Said"]
"""From a request's body and its number, counted from 0, to what the server says."""


class Said:
    """What the server says: a status, a body or the text of a chat reply, and how it dawdles."""

    def __init__(
        self,
        text: str | None = "ok",
        status: int = 200,
        body: bytes | None = None,
        finish: str = "stop",
        usage: Any = "default",
        headers: dict[str, str] | None = None,
        sleep: float = 0.0,
        drip: float = 0.0,
    ):
        usage = {"prompt_tokens": 100, "completion_tokens": 10} if usage == "default" else usage
        reply = {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}]}
        counted = {} if usage is None else {"usage": usage}
        self.body = json.dumps(reply | counted).encode() if body is None else body
        self.status, self.headers, self.sleep, self.drip = status, headers or {}, sleep, drip


class Server:
    """Where it listens, and what it was asked."""

    def __init__(self, answer: Answer):
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.most_at_once = 0
        self.times: list[float] = []
        self._at_once, self._lock = 0, threading.Lock()
        self.url = ""

    def take(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Said:
        with self._lock:
            number = len(self.requests)
            self.requests.append(body)
            self.headers.append(headers)
            self.paths.append(path)
            self.times.append(time.monotonic())
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            said = self.answer(body, number)
            time.sleep(said.sleep)
            return said
        finally:
            with self._lock:
                self._at_once -= 1


@contextmanager
def serving(answer: Answer) -> Iterator[Server]:
    """A server that answers requests until the end of the block."""
    server = Server(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            said = server.take(self.path, dict(self.headers.items()), body)
            try:
                self.send_response(said.status)
                for name, value in said.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(said.body)))
                self.end_headers()
                for byte in [said.body] if not said.drip else [said.body[i : i + 1] for i in range(len(said.body))]:
                    self.wfile.write(byte)
                    self.wfile.flush()
                    time.sleep(said.drip)
            except (BrokenPipeError, ConnectionResetError):
                pass  # whoever asked has given up waiting

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
