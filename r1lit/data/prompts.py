"""Prompts ready for the model: read, checked, encoded, and parted into training and validation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from r1lit.data.files import Row
from r1lit.data.parting import Fault, Loaded, Made, Make, load_held_out, load_items, text_of
from r1lit.data.settings import DataSettings, SourceSettings
from r1lit.text.encoding import PromptEncoder, check_messages
from r1lit.types import Message, Prompt

Check = Callable[[Mapping[str, Any]], str | None]
"""Looks at a row's columns and says what is wrong with them, if anything is."""

LoadedPrompts = Loaded[Prompt]
"""The prompts of a run."""


def load_prompts(
    settings: DataSettings,
    tokenizer: Any,
    checks: Sequence[Check] = (),
    measured: Mapping[str, SourceSettings] | None = None,
    measured_tokens: int | None = None,
    held_prompts: Collection[str] = (),
) -> LoadedPrompts:
    """Read every source, leave out what cannot be used, and hold out a part for validation.

    Args:
        settings: what to read, and how.
        tokenizer: of the model that will be given the prompts.
        checks: further conditions of a usable row, such as a gold answer that can be parsed.
        measured: sources that the model is measured on instead of the part held out.
        measured_tokens: longest prompt of ``measured``; without it ``settings.max_prompt_tokens``.
        held_prompts: keys of prompts that are measured elsewhere, from `measured_keys`; they are left out.

    Raises:
        DataError: for a source that cannot be read, has more bad rows than allowed, or leaves nothing to train on.
    """
    make, make_measured = (_maker(settings, tokenizer, checks, longest) for longest in (None, measured_tokens))
    return load_items(settings, make, measured, make_measured=make_measured, held_prompts=held_prompts)


def load_measured(
    settings: DataSettings,
    tokenizer: Any,
    checks: Sequence[Check],
    measured: Mapping[str, SourceSettings],
    measured_tokens: int | None = None,
) -> LoadedPrompts:
    """The prompts to measure a model on alone, nothing to train on; arguments as of `load_prompts`.

    Raises:
        DataError: for a source that cannot be read or has more bad rows than allowed.
    """
    return load_held_out(settings, _maker(settings, tokenizer, checks, measured_tokens), measured)


def measured_keys(settings: DataSettings, measured: Mapping[str, SourceSettings]) -> frozenset[str]:
    """The `prompt_key` of every prompt that a model is measured on, of whatever length.

    Raises:
        DataError: for a source that cannot be read or has more bad rows than allowed.
    """
    # ``data.limit`` may be another one where the model is measured.
    whole = settings.model_copy(update={"limit": None})
    return frozenset(load_held_out(whole, _key, measured).validation) if measured else frozenset()


def prompt_key(raw: Any) -> str:
    """What a prompt asks, equal for a text and a chat of a user's one message: system messages do not count.

    >>> chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?", "name": None}]
    >>> prompt_key("Why? ") == prompt_key(chat) == "Why?"
    True
    """
    asked = question(raw)
    if isinstance(asked, list):
        turns = [message for message in asked if message["role"] != "system"]
        asked = turns[0]["content"] if len(turns) == 1 else turns
    return text_of(raw if isinstance(asked, tuple) else asked).strip()


def _key(row: Row) -> Made[str] | Fault:
    raw = question(row.columns["prompt"])
    if isinstance(raw, tuple):
        return raw
    key = prompt_key(raw)
    return Made(key, key, key)


def _maker(
    settings: DataSettings, tokenizer: Any, checks: Sequence[Check], measured_tokens: int | None
) -> Make[Prompt]:
    encoder = PromptEncoder(tokenizer, settings.template)
    limit = ("data.max_prompt_tokens", settings.max_prompt_tokens)
    if measured_tokens is not None:
        limit = ("evaluation.max_prompt_tokens", measured_tokens)

    def make(row: Row) -> Made[Prompt] | Fault:
        made = _prompt(row, encoder, limit, checks)
        if not isinstance(made, Prompt):
            return made
        return Made(made, made.ids, text_of(made.raw), (prompt_key(made.raw),))

    return make


def _prompt(row: Row, encoder: PromptEncoder, limit: tuple[str, int], checks: Sequence[Check]) -> Prompt | Fault:
    """The row as a prompt, or the reason against it and what was found."""
    raw = question(row.columns["prompt"])
    if isinstance(raw, tuple):
        return raw
    try:
        ids, prefill = encoder.encode(raw)
    except ValueError as error:
        return "bad prompt", str(error)
    setting, longest = limit
    if len(ids) > longest:
        return "over-long prompt", f"{len(ids)} tokens, more than {setting}={longest}"
    columns = {name: value for name, value in row.columns.items() if name != "prompt"}
    for check in checks:
        if problem := check(columns):
            return "failed check", problem
    return Prompt(ids, raw, columns, prefill, row.origin)


def question(raw: Any) -> str | list[Message] | Fault:
    """A row's prompt as it is encoded, or the reason against it and what was found."""
    if raw is None or (isinstance(raw, (str, list)) and not (raw.strip() if isinstance(raw, str) else raw)):
        return "empty prompt", f"prompt={raw!r} asks nothing"
    if isinstance(raw, str):
        return raw
    try:
        # An unused key of a message is null where other rows of its table have one.
        return [{k: v for k, v in message.items() if v is not None} for message in check_messages(raw)]
    except ValueError as error:
        return "bad prompt", str(error)
