"""Questions with their replies to token ids, for models that judge replies."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r1lit.text.encoding import OPENED_THINKING, TAGS, PromptEncoder, any_of
from r1lit.text.thinking import split

PARTS: Mapping[str, Callable[[str], str | None]] = {
    "answer": lambda reply: split(reply).answer,
    "response": lambda reply: reply.strip() or None,
}
"""What of a reply is looked at: its final answer alone, or all of it; None where there is nothing of it."""


class ReplyEncoder(PromptEncoder):
    """Encodes a question and a reply to it as one row.

    The tags of `TAGS` are the reply's own and become the tokens that the tokenizer has for them; nothing else in it
    can become a special token, nor anything in the question. A chat template that opens the reasoning itself leaves
    that to the reply here.

    Args:
        tokenizer: any transformers tokenizer with an end-of-sequence token.
        template: of plain questions.

    Raises:
        ValueError: where the tokenizer has no end-of-sequence token.
    """

    def __init__(self, tokenizer: Any, template: str = "r1_zero"):
        super().__init__(tokenizer, template)
        if tokenizer.eos_token_id is None:
            raise ValueError(
                "the tokenizer has no eos token, which ends a reply; set eos_token in the tokenizer's config"
            )
        self._foreign = any_of({*self._guarded_ids.values()} - {*TAGS})
        self._own = any_of({*self._guarded_ids.values()} & {*TAGS})

    def encode_row(self, raw: str | Sequence[Mapping[str, Any]], reply: str) -> tuple[int, ...]:
        """The token ids of question, reply and end.

        Raises:
            ValueError: for a question that `encode` refuses, and for a reply with text that would become a special
                token in spite of all.
        """
        _, rows = self.encode_rows(raw, [reply])
        return rows[0]

    def encode_rows(
        self, raw: str | Sequence[Mapping[str, Any]], replies: Sequence[str]
    ) -> tuple[int, tuple[tuple[int, ...], ...]]:
        """The length of the question's token ids, and the row of each of its replies; raises as `encode_row`."""
        prompt, _ = self.encode(raw)
        # Templates for plain questions end in a word; a chat template says itself where a reply begins.
        space, end = " " if isinstance(raw, str) else "", self.tokenizer.eos_token_id
        return len(prompt), tuple((*prompt, *self.encode_reply(space + reply), end) for reply in replies)

    def encode_reply(self, text: str, begun: bool = True) -> tuple[int, ...]:
        """The token ids of a reply alone, as it goes on from its question, or stands alone where nothing was begun.

        Raises:
            ValueError: for text that would become a special token in spite of all.
        """
        ids: list[int] = []
        if self._foreign.pattern:
            for place, piece in enumerate(re.split(f"({self._foreign.pattern})", text)):
                # Every other piece is a foreign token's text, which goes in character by character.
                for part in piece if place % 2 else [piece]:
                    if part:
                        ids += self._continue(part) if ids or begun else self._ids(part)
        else:
            ids += self._continue(text) if begun else self._ids(text)
        got = [self._guarded_ids[number] for number in ids if number in self._guarded_ids]
        own = self._own.findall(text) if self._own.pattern else []
        if got != own:
            raise ValueError(
                f"the reply would hold the special tokens {got} where its tags are {own}; reword the text that the "
                "tokenizer turns into one"
            )
        return tuple(ids)

    def _render(self, raw: str | Sequence[Mapping[str, Any]], guard: Callable[[str], str]) -> str:
        return OPENED_THINKING.sub("", super()._render(raw, guard))
