"""Keeps what looks like a key out of what leaves this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

HIDDEN = "***"

_NAME = re.compile(
    r"(?i)(^|[_.+~-])((api|access|secret|private)_?key|auth|authorization|cookie|credentials?|passw(or)?d|secret|token)$"
)
_VARIABLE = re.compile(r"(?i)(key|token|secret|passw(or)?d|credentials?)$")
_SHAPE = re.compile(r"\b(?:sk-|hf_|gh[pousr]_|xox[bp]-|wandb_v\d+_)[\w-]{16,}|(?<=://)[^/@\s]+(?=@)")
_SHORTEST = 8


def without_secrets(values: Any, known: Iterable[str] | None = None) -> Any:
    """A copy with ``***`` for what a key's name or shape gives away, and for the values of secret variables.

    Args:
        values: mappings, sequences and plain values, nested.
        known: texts to hide wherever they stand; by default what the environment's ``..._KEY``, ``..._TOKEN`` and their
            like hold.

    >>> without_secrets({"api_key": "abc", "max_tokens": 64, "url": "https://me:abc@host/v1"}, [])
    {'api_key': '***', 'max_tokens': 64, 'url': 'https://***@host/v1'}
    """
    known = sorted(secret_variables(os.environ) if known is None else known, key=len, reverse=True)
    return _hidden(values, known)


def secret_variables(environment: Mapping[str, str]) -> set[str]:
    """The values of the variables whose names say that they hold a secret."""
    return {
        value.strip()
        for name, value in environment.items()
        if _VARIABLE.search(name) and len(value.strip()) >= _SHORTEST
    }


def _hidden(value: Any, known: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: HIDDEN if _telling(key, item) else _hidden(item, known) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(item, known) for item in value]
    if isinstance(value, str):
        return _hidden_text(value, known)
    return value


def _hidden_text(text: str, known: Sequence[str]) -> str:
    for secret in known:
        text = text.replace(secret, HIDDEN)
    name, equals, value = text.partition("=")
    # An override as it is typed.
    if equals and value and _NAME.search(name):
        return f"{name}={HIDDEN}"
    return _SHAPE.sub(HIDDEN, text)


def _telling(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, str) and bool(value) and bool(_NAME.search(name))
