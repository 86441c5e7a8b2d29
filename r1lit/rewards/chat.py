"""Asking a model in words: what every backend of a generative judge promises, whether it is far away or at hand."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from r1lit.settings import JOINT, Settings

Conversation = Sequence[Mapping[str, str]]
"""Chat messages, each with a ``role`` and its ``content``."""

MILLION = 1_000_000

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class ChatSettings(Settings):
    """A model that is asked in words.

    Attributes:
        kind: ``none``; ``endpoint``, any OpenAI-compatible one; ``local``, a model directory through r1lit's sampler.
        model: the endpoint's name of the model, or a local model's path (without it the run's own model).
        base_url: the endpoint's address up to ``/v1``: ``https://api.openai.com/v1``.
        key_env: the environment variable that holds the endpoint's key; the key itself stands nowhere else.
        temperature: 0 is greedy.
        max_tokens: longest reply.
        timeout: seconds a request may take.
        retries: how often a request that was refused for the moment (429, 5xx, time-out) is made again.
        backoff: seconds before the first of these; each further one waits twice as long.
        concurrency: requests under way at a time.
        prompt_price, completion_price: of a million tokens; with both, the cost is told.
        extra: further keys of the request's body; null takes one out.
    """

    kind: Literal["none", "endpoint", "local"] = "none"
    model: str | None = Field(None, min_length=1)
    base_url: str | None = None
    key_env: str | None = None
    temperature: float = Field(0.0, ge=0, allow_inf_nan=False)
    max_tokens: int = Field(1024, ge=1)
    timeout: float = Field(120.0, gt=0, allow_inf_nan=False)
    retries: int = Field(5, ge=0)
    backoff: float = Field(1.0, ge=0, allow_inf_nan=False)
    concurrency: int = Field(8, ge=1)
    prompt_price: float | None = Field(None, ge=0, allow_inf_nan=False)
    completion_price: float | None = Field(None, ge=0, allow_inf_nan=False)
    extra: dict[str, Any] = Field(default_factory=dict)

    @field_validator("key_env")
    @classmethod
    def _names_a_variable(cls, name: str | None) -> str | None:
        # What is refused may be a key that was typed here: it is not repeated.
        if name is not None and not _VARIABLE.fullmatch(name):
            raise ValueError(
                "key_env is the name of an environment variable, such as OPENAI_API_KEY, never the key itself; set "
                "the variable and give its name"
            )
        return name

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.username or parts.password:
            raise ValueError("base_url holds a password, which would be written down; set key_env instead")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"base_url={url!r} is no address; write it like https://api.openai.com/v1")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _an_endpoint_has_a_place_and_a_name(self) -> ChatSettings:
        missing = [name for name in ("base_url", "model") if self.kind == "endpoint" and getattr(self, name) is None]
        if missing:
            raise ValueError(JOINT.join(f"kind=endpoint needs {name}, which is not set; set it" for name in missing))
        return self

    def fingerprint(self) -> dict[str, Any]:
        """What replies depend on, in plain values: not how often, how long and at what price they are asked for."""
        return self.model_dump(include={"kind", "model", "base_url", "temperature", "max_tokens", "extra"})

    def cost(self, usage: Usage) -> float | None:
        """What so many tokens cost; None where the prices are not known."""
        if self.prompt_price is None or self.completion_price is None:
            return None
        tokens = usage.prompt_tokens * self.prompt_price + usage.completion_tokens * self.completion_price
        return tokens / MILLION


@dataclass(frozen=True)
class Reply:
    """What came back for one conversation.

    Attributes:
        text: the reply; None where there is none that can be used.
        failure: why there is none, in a word or two to count by: ``timeout``, ``http 500``, ``truncated``, ...
        detail: what to tell the user about it; a key never stands in it.
        prompt_tokens, completion_tokens: as the backend counted them; a reply that cannot be used was paid for too.
        retries: how many further requests it took.
    """

    text: str | None
    failure: str | None = None
    detail: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    retries: int = 0


class Chat(Protocol):
    """Answers conversations."""

    def complete(self, conversations: Sequence[Conversation]) -> list[Reply]:
        """One reply a conversation, in their order; what fails is a reply with a ``failure``."""
        ...


@dataclass
class Usage:
    """What asking has taken so far.

    Attributes:
        requests: conversations asked, retries not counted.
        retries: requests made again.
        prompt_tokens, completion_tokens: of all of them.
        failures: how many gave nothing usable, by reason.
    """

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def add(self, replies: Iterable[Reply]) -> None:
        """Count more replies."""
        for reply in replies:
            self.requests += 1
            self.retries += reply.retries
            self.prompt_tokens += reply.prompt_tokens
            self.completion_tokens += reply.completion_tokens
            if reply.failure:
                self.failures[reply.failure] += 1
