"""Questions to token ids, so that nothing a user writes can become a special token."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from jinja2.exceptions import TemplateError

from r1lit.text.templates import render

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
"""What structures an answer; a question that holds one must not look like it to the model."""

ROLES = ("system", "developer", "user", "assistant", "tool")

OPENED_THINKING = re.compile(r"<think>\s*\Z")
"""At the end of a prompt: the reasoning that a chat template opens for the answer."""

# Qwen and others leave <tool_call> and the like unmarked, though they steer the model as special tokens do; and a
# phrase that is one token is there for a template.
_CONTROL = re.compile(r"<[^<>\s]+>|.*\S\s+\S.*", re.DOTALL)
_PRIVATE_USE = tuple(chain(range(0xE000, 0xF900), range(0xF0000, 0xF0400)))


class PromptEncoder:
    """Encodes the questions of one tokenizer and template.

    User text is guarded against every special token of the tokenizer, its other control tokens (``<...>``, or
    several words in one) and the tags of `TAGS`. Text that holds none of them, nearly all there is, is encoded in one
    go with its template; otherwise each occurrence is set apart and encoded character by character. The result is
    checked either way.

    Args:
        tokenizer: any transformers tokenizer.
        template: a name or a text for `r1lit.text.templates.render`; message lists use the tokenizer's chat template.
    """

    def __init__(self, tokenizer: Any, template: str = "r1_zero"):
        self.tokenizer, self.template = tokenizer, template
        added = {token.content: token.special for token in tokenizer.added_tokens_decoder.values()}
        control = (text for text, special in added.items() if special or _CONTROL.fullmatch(text))
        guarded = {*TAGS, *tokenizer.all_special_tokens, *control}
        known = {text: tokenizer.convert_tokens_to_ids(text) for text in guarded}
        self._guarded_ids = {n: text for text, n in known.items() if n is not None and n != tokenizer.unk_token_id}
        self._guarded = any_of(guarded)
        self._matched = any_of({*added, *self._guarded_ids.values()})
        self._bos = self._leading_bos()
        self._begins_with_space = self._ids("\na") != self._ids("\n") + self._ids("a")

    def encode(self, raw: str | Sequence[Mapping[str, Any]]) -> tuple[tuple[int, ...], str]:
        """Encode one question.

        Returns:
            The token ids, template and beginning-of-sequence token included; and the prefill: the tail of the
            prompt that belongs to the answer where the template opens ``<think>`` itself, else empty.

        Raises:
            ValueError: for messages that are none, a chat template that refuses them or does not exist, and text
                that would become a special token in spite of all (a tokenizer that rewrites text before it matches).
        """
        texts = [raw] if isinstance(raw, str) else [message["content"] for message in check_messages(raw)]
        stand_ins = self._stand_ins(texts)
        marks = {text: mark for mark, text in stand_ins.items()}

        def guard(text: str) -> str:
            return self._guarded.sub(lambda found: marks[found[0]], text)

        rendered = self._render(raw, guard)
        ids = self._encode_pieces(rendered, stand_ins)
        edge = next(self._free_marks(rendered))
        self._check(ids, self._render(raw, lambda text: edge + guard(text) + edge))
        if isinstance(raw, str) and self._bos is not None and ids[:1] != [self._bos]:
            ids = [self._bos, *ids]
        if not ids:
            raise ValueError(f"the prompt {raw!r} has no tokens under the template {self.template!r}")
        opened = OPENED_THINKING.search(rendered)
        return tuple(ids), opened[0] if opened else ""

    def _stand_ins(self, texts: Iterable[str]) -> dict[str, str]:
        """A private-use character that no text holds, for each guarded string that one does."""
        joined = "\n".join(texts)
        found = dict.fromkeys(self._guarded.findall(joined))
        return {mark: text for text, mark in zip(found, self._free_marks(joined), strict=False)}

    def _free_marks(self, text: str) -> Iterator[str]:
        """The private-use characters that a text does not hold."""
        return (mark for mark in map(chr, _PRIVATE_USE) if mark not in text)

    def _render(self, raw: str | Sequence[Mapping[str, Any]], guard: Callable[[str], str]) -> str:
        if isinstance(raw, str):
            return render(self.template, guard(raw))
        if not self.tokenizer.chat_template:
            raise ValueError(
                "the prompt is a list of messages, but this tokenizer has no chat template; "
                "give plain text prompts or a model with a chat template"
            )
        return self._chat([{"role": message["role"], "content": self._content(message, guard)} for message in raw])

    def _content(self, message: Mapping[str, Any], guard: Callable[[str], str]) -> str:
        """What a message says, guarded."""
        return guard(message["content"])

    def _chat(self, messages: Sequence[Mapping[str, str]], opened: bool = True) -> str:
        """Messages as the chat template puts them; ``opened`` where an answer of the assistant's is to follow."""
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opened)
        except TemplateError as error:
            raise ValueError(f"the chat template refuses the messages: {error}") from error

    def _encode_pieces(self, rendered: str, stand_ins: Mapping[str, str], begun: bool = False) -> list[int]:
        """The ids of a text with its stand-ins; ``begun`` where it goes on from other text."""
        ids: list[int] = []
        for piece in re.split(f"([{''.join(stand_ins)}])", rendered) if stand_ins else [rendered]:
            # A guarded string goes in character by character, so that no id can span it.
            for part in stand_ins.get(piece, [piece]):
                ids += self._continue(part) if ids or begun else self._ids(part)
        return ids

    def _continue(self, text: str) -> list[int]:
        """The ids of text that goes on from other text: tokenizers that begin texts with a space must not do so."""
        lead, joined = self._ids("\n"), self._ids("\n" + text)
        follows = self._begins_with_space and joined[: len(lead)] == lead
        return joined[len(lead) :] if follows else self._ids(text)

    def _ids(self, text: str) -> list[int]:
        # Not verbose: prompts beyond the model's length are counted by whoever asked.
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _leading_bos(self) -> int | None:
        """The beginning-of-sequence token where this tokenizer puts one before plain text."""
        bos = self.tokenizer.bos_token_id
        return bos if bos is not None and self.tokenizer("a")["input_ids"][:1] == [bos] else None

    def _check(self, ids: list[int], edged: str) -> None:
        """The special tokens must be the template's own: those it holds with the user's text fenced off."""
        tokens = set(self._guarded_ids.values())
        own = [text for text in self._matched.findall(edged) if text in tokens]
        got = [self._guarded_ids[number] for number in ids if number in self._guarded_ids]
        if got != own:
            raise ValueError(
                f"the prompt would hold the special tokens {got} where its template has {own}; "
                "reword the text that the tokenizer turns into one"
            )


def encode_prompt(
    tokenizer: Any, raw: str | Sequence[Mapping[str, Any]], template: str = "r1_zero"
) -> tuple[tuple[int, ...], str]:
    """Encode one question; for many, keep one `PromptEncoder`.

    Returns and raises what `PromptEncoder.encode` does.
    """
    return PromptEncoder(tokenizer, template).encode(raw)


def check_messages(raw: Any) -> Sequence[Mapping[str, Any]]:
    """Give the messages back if they are a conversation that ends where an assistant answers.

    Raises:
        ValueError: naming the message, by its number from 1, and what is wrong with it.

    >>> check_messages([{"role": "user", "content": "Hello"}])
    [{'role': 'user', 'content': 'Hello'}]
    """
    if not isinstance(raw, (list, tuple)) or not raw:
        raise ValueError(f"a prompt is a text or a list of messages, not {raw!r}")
    for number, message in enumerate(raw, start=1):
        if not isinstance(message, Mapping):
            raise ValueError(f"message {number} is {message!r}, not an object with role and content")
        if message.get("role") not in ROLES:
            raise ValueError(f"message {number} has role={message.get('role')!r}; the roles are {', '.join(ROLES)}")
        if not isinstance(message.get("content"), str):
            raise ValueError(f"message {number} has content={message.get('content')!r}, which is no text")
        extra = sorted(key for key, value in message.items() if key not in ("role", "content") and value is not None)
        if extra:
            raise ValueError(f"message {number} has {', '.join(extra)} beside role and content; they would be lost")
    if raw[-1]["role"] == "assistant":
        raise ValueError("the last message is the assistant's; a prompt ends before its answer")
    if not any(message["content"].strip() for message in raw if message["role"] != "system"):
        raise ValueError("no message says anything")
    return raw


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """A pattern for any of the texts; an empty one where there is none."""
    # Where one token's text begins another's, tokenizers match the longest.
    longest_first = sorted(filter(None, texts), key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first)))
