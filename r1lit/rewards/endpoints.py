"""Any OpenAI-compatible chat endpoint: many conversations at a time, retried where that helps, every token counted."""

from __future__ import annotations

import http.client
import json
import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from r1lit.rewards.chat import ChatSettings, Conversation, Reply
from r1lit.settings import ConfigError, UserError

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Refusals that another attempt may overcome."""

MISTAKEN = {
    401: "check the key in the environment variable that key_env names",
    403: "check the key in the environment variable that key_env names, and what it may do",
    404: "check base_url and model",
}
"""Refusals of every request alike, with the remedy: nothing further is asked."""

LONGEST_WAIT = 60.0
"""Seconds between two attempts, whatever the endpoint asks for."""

HOPELESS = 8
"""After so many conversations in a row without a usable reply, and one for each request under way, it stops."""

LARGEST = 16 << 20
"""Bytes of a reply that are read."""

SHOWN = 300


class EndpointError(UserError):
    """An endpoint that answers nothing, or refuses everything."""


@dataclass(frozen=True)
class Refusal:
    """Why an attempt gave no reply, whether another one may, and how long the endpoint wants it to wait."""

    reason: str
    detail: str
    again: bool = False
    wait: float = 0.0


class Endpoint:
    """Chat completions over HTTP.

    Args:
        settings: the endpoint, and what asking it may take. The key is read from the environment here, once.

    Raises:
        ConfigError: where ``key_env`` names a variable that is not set, or holds what cannot be a key.
    """

    def __init__(self, settings: ChatSettings):
        self.settings = settings
        self._key = os.environ.get(settings.key_env, "").strip() if settings.key_env else ""
        if settings.key_env and not self._key:
            raise ConfigError([f"key_env={settings.key_env}, but that environment variable is not set; set it"])
        if not (self._key.isascii() and self._key.isprintable()):
            # The library that sends it would name it in its own error.
            raise ConfigError([f"the environment variable {settings.key_env} holds what cannot be a key; mend it"])
        self._opener = build_opener(_NoRedirect)
        self._lock = threading.Lock()
        self._in_vain = 0

    def complete(self, conversations: Sequence[Conversation]) -> list[Reply]:
        """One reply a conversation, in their order.

        Raises:
            EndpointError: where the endpoint refuses the key, the address or the model, or answers nothing at all.
        """
        broken_off = threading.Event()
        with ThreadPoolExecutor(self.settings.concurrency) as threads:
            futures = [threads.submit(self._ask, messages, broken_off) for messages in conversations]
            try:
                return [future.result() for future in futures]
            except BaseException:
                # Whoever waits for the next attempt wakes up; what has not begun does not.
                broken_off.set()
                for future in futures:
                    future.cancel()
                raise

    def _ask(self, messages: Conversation, broken_off: threading.Event) -> Reply:
        body = json.dumps(self._body(messages)).encode()
        retries = 0
        while True:
            got = self._attempt(body)
            if isinstance(got, Reply):
                return self._noted(replace(got, retries=retries))
            if not got.again or retries == self.settings.retries:
                return self._noted(Reply(None, got.reason, got.detail, retries=retries))
            # Requests that failed together shall not come back together.
            delay = self.settings.backoff * 2**retries * random.uniform(0.5, 1.0)
            if broken_off.wait(min(max(delay, got.wait), LONGEST_WAIT)):
                return Reply(None, "broken off", retries=retries)
            retries += 1

    def _body(self, messages: Conversation) -> dict[str, Any]:
        settings = self.settings
        body = {
            "model": settings.model,
            "messages": [dict(message) for message in messages],
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
        }
        return {name: value for name, value in {**body, **settings.extra}.items() if value is not None}

    def _attempt(self, body: bytes) -> Reply | Refusal:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "r1lit"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = Request(f"{self.settings.base_url}/chat/completions", body, headers, method="POST")
        deadline = time.monotonic() + self.settings.timeout
        try:
            with self._opener.open(request, timeout=self.settings.timeout) as response:
                return _reply(_read(response, deadline))
        except HTTPError as error:
            with error:
                return self._refused(error, deadline)
        except TimeoutError:
            return self._slow()
        except (URLError, http.client.HTTPException, OSError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                return self._slow()
            return Refusal("unreachable", self._without_key(f"{type(reason).__name__}: {reason}"), again=True)

    def _slow(self) -> Refusal:
        return Refusal("timeout", f"no reply in {self.settings.timeout:g} s", again=True)

    def _refused(self, error: HTTPError, deadline: float) -> Refusal:
        try:
            said = _read(error, deadline).decode(errors="replace")
        except (OSError, http.client.HTTPException) as broken:
            said = f"its reason could not be read: {broken}"
        said = self._without_key(" ".join(said.split()))[:SHOWN]
        if error.code in MISTAKEN:
            raise EndpointError(
                f"{self.settings.base_url} (model {self.settings.model}) answered {error.code}: {said}; "
                f"{MISTAKEN[error.code]}"
            )
        return Refusal(f"http {error.code}", said, error.code in RETRIED, _seconds(error.headers.get("Retry-After")))

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _noted(self, reply: Reply) -> Reply:
        """The reply; after too many in a row that nothing can be made of, an error instead."""
        with self._lock:
            answered = reply.completion_tokens or not reply.failure
            self._in_vain = 0 if answered else self._in_vain + 1
            hopeless = self._in_vain >= HOPELESS + self.settings.concurrency
        if hopeless:
            raise EndpointError(
                f"{self.settings.base_url} (model {self.settings.model}) gave no reply to {self._in_vain} "
                f"conversations in a row; the last: {reply.failure} ({reply.detail}). Check that it is up, and go on "
                "with resume=RUN"
            )
        return reply


class _NoRedirect(HTTPRedirectHandler):
    """Where an endpoint sends its callers elsewhere, the key does not follow."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _read(response: Any, deadline: float) -> bytes:
    """All of a reply.

    Raises:
        TimeoutError: where it is still coming in at the deadline; a socket's own time-out starts anew with each byte.
    """
    parts, size = [], 0
    while size < LARGEST and (part := response.read1(1 << 16)):
        parts.append(part)
        size += len(part)
        if time.monotonic() > deadline:
            raise TimeoutError
    return b"".join(parts)


def _reply(body: bytes) -> Reply | Refusal:
    try:
        said = json.loads(body)
        choice = said["choices"][0]
        text, finish = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, LookupError, TypeError, AttributeError):
        return Refusal("malformed reply", body[:SHOWN].decode(errors="replace"))
    usage = said.get("usage")
    tokens = [_count(usage, name) for name in ("prompt_tokens", "completion_tokens")]
    if finish == "length":
        return Reply(None, "truncated", "the reply ran into max_tokens; raise it", *tokens)
    if not isinstance(text, str) or not text.strip():
        return Reply(None, "empty reply", f"finish_reason={finish!r}", *tokens)
    return Reply(text, None, "", *tokens)


def _count(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _seconds(header: str | None) -> float:
    """A Retry-After in seconds; the form with a date is left to the back-off."""
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0
