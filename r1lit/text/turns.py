"""Demonstrations to token ids, and which of them a model learns: what it would be given, and what it would say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r1lit.text.encoding import OPENED_THINKING, TAGS, PromptEncoder, any_of, check_messages
from r1lit.text.replies import ReplyEncoder
from r1lit.text.thinking import CLOSE_THINK, OPEN_THINK

REWRITTEN = (
    "the chat template puts an earlier answer of the assistant's otherwise than it was given (many leave out its "
    "reasoning), so that one row cannot teach all answers; set sft.loss_on=last_response"
)

_TAG = any_of(TAGS)

Guard = Callable[[str], str]


@dataclass(frozen=True)
class Encoded:
    """Token ids, and for each whether it is one to learn."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]


class TurnEncoder(ReplyEncoder):
    """Encodes answers behind the very prompt that the model is given when it samples.

    What is learnt is what the model would say: an answer, and the end of it. To a plain prompt that is the tokenizer's
    end of sequence, in a conversation what the chat template ends a turn in. Tags of `TAGS` in what the assistant says
    are the tokens that the tokenizer has for them; nothing else that anybody says becomes a special token.

    Args:
        tokenizer: any transformers tokenizer with an end-of-sequence token.
        template: of plain prompts.

    Raises:
        ValueError: where the tokenizer has no end-of-sequence token.
    """

    def __init__(self, tokenizer: Any, template: str = "r1_zero"):
        super().__init__(tokenizer, template)
        self._stops = {number for number, text in self._guarded_ids.items() if text not in TAGS}
        self._end = (tokenizer.eos_token_id,)

    # The model that samples is given the reasoning that a template opens; so is this one.
    _render = PromptEncoder._render

    def encode_answer(self, prompt: str, response: str) -> Encoded:
        """A plain prompt in its template and its answer, nothing put between them: a space that is to stand there is
        the answer's first.

        Raises:
            ValueError: for text that would become a special token in spite of all, and for an answer that does not
                go on from the reasoning that the template opens.
        """
        given, prefill = self.encode(prompt)
        said = self.encode_reply(going_on(prefill, response))
        return _joined([(given, False), (said, True), (self._end, True)])

    def encode_conversation(self, messages: Sequence[Mapping[str, Any]], every: bool = False) -> Encoded:
        """Chat messages up to the assistant's last one, which is learnt; with ``every`` all of the assistant's are.

        Raises:
            ValueError: for messages that are none, a chat template that refuses them, does not exist or (with
                ``every``) rewrites earlier answers, and for what `encode_answer` refuses.
        """
        messages = check_answered(messages)
        turns = [number for number, message in enumerate(messages) if number and message["role"] == "assistant"]
        stand_ins = self._stand_ins(message["content"] for message in messages)
        marks = {text: mark for mark, text in stand_ins.items()}
        parts: list[tuple[Sequence[int], bool]] = []
        seen, closing = "", self._end

        def guard(text: str) -> str:
            return self._guarded.sub(lambda found: marks[found[0]], text)

        for number in turns if every else turns[-1:]:
            rendered = self._render(messages[:number], guard)
            if not rendered.startswith(seen):
                raise ValueError(REWRITTEN)
            between = self._encode_pieces(rendered[len(seen) :], stand_ins, begun=bool(parts))
            ended = len(closing) if parts and tuple(between[: len(closing)]) == closing else 0
            parts += [(between[:ended], True), (between[ended:], False)]
            opened = OPENED_THINKING.search(rendered)
            said = going_on(opened[0] if opened else "", messages[number]["content"])
            lead, closing = self._frame(messages[:number], rendered, guard)
            parts.append((self.encode_reply(lead + said), True))
            seen = rendered + lead + _outside_tags(guard, said)
        edge = next(self._free_marks("".join([seen, *stand_ins])))
        asked = self._render(messages[: turns[-1]], lambda text: edge + guard(text) + edge)
        self._check([number for part, _ in parts[:-1] for number in part], asked)
        return _joined([*parts, (closing, True)])

    def encode_text(self, text: str) -> Encoded:
        """Raw text with its end, all of it learnt but the first token, which nothing stands before.

        Raises:
            ValueError: for text that would become a special token in spite of all.
        """
        begin = () if self._bos is None else (self._bos,)
        return _joined([(begin, False), (self.encode_reply(text, begun=False), True), (self._end, True)])

    def _content(self, message: Mapping[str, Any], guard: Guard) -> str:
        # The template must see the assistant's own tags: many leave out its earlier reasoning.
        if message["role"] == "assistant":
            return _outside_tags(guard, message["content"])
        return super()._content(message, guard)

    def _frame(self, messages: Sequence[Mapping[str, Any]], rendered: str, guard: Guard) -> tuple[str, tuple[int, ...]]:
        """What a chat template puts around an answer: blanks before it, and the tokens that end it."""
        mark = next(self._free_marks(rendered))
        contents = [{**message, "content": self._content(message, guard)} for message in messages]
        whole = self._chat([*contents, {"role": "assistant", "content": mark}], opened=False)
        before, found, after = whole.rpartition(mark)
        lead = before.removeprefix(rendered) if before.startswith(rendered) else ""
        tail = self._encode_pieces(after, {}, begun=True) if found else []
        stop = next((place for place, number in enumerate(tail) if number in self._stops), None)
        return lead if not lead.strip() else "", self._end if stop is None else tuple(tail[: stop + 1])


def check_answered(messages: Any) -> list[Mapping[str, Any]]:
    """Chat messages up to the assistant's last one, what the assistant says without blanks around it.

    Raises:
        ValueError: naming what is wrong with them.

    >>> check_answered([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": " Hello "}])[1]
    {'role': 'assistant', 'content': 'Hello'}
    """
    if not isinstance(messages, (list, tuple)) or not all(isinstance(message, Mapping) for message in messages):
        raise ValueError(f"a conversation is a list of messages, not {messages!r}")
    turns = [number for number, message in enumerate(messages) if message.get("role") == "assistant"]
    if not turns:
        raise ValueError("the assistant says nothing in these messages")
    asked, answer = check_messages(messages[: turns[-1]]), messages[turns[-1]]
    # The same conditions hold for the answer.
    check_messages([{**answer, "role": "user"}])
    return [
        {**message, "content": message["content"].strip()} if message["role"] == "assistant" else message
        for message in (*asked, answer)
    ]


def going_on(prefill: str, response: str) -> str:
    """What is left of a response to say where its prompt has opened the reasoning already.

    Raises:
        ValueError: where the response has no reasoning to go on from.

    >>> going_on("<think>\\n", "<think> 2+2 is 4 </think> 4")
    '2+2 is 4 </think> 4'
    >>> going_on("", "4")
    '4'
    """
    if response.startswith(prefill):
        return response[len(prefill) :]
    before, opened, rest = response.partition(OPEN_THINK)
    if opened and not before.strip():
        return rest.lstrip() if prefill[-1].isspace() else rest
    if not opened and CLOSE_THINK in response:
        return response
    raise ValueError(
        f"the prompt ends in {prefill!r}, but the response {response[:60]!r} does not begin with reasoning; begin it "
        f"with {OPEN_THINK}, or with {OPEN_THINK}\n\n{CLOSE_THINK} where there is none"
    )


def _outside_tags(guard: Guard, text: str) -> str:
    """The text with all but its tags guarded."""
    tags, between = _TAG.findall(text), _TAG.split(text)
    return "".join(piece for pair in zip(map(guard, between), [*tags, ""], strict=True) for piece in pair)


def _joined(parts: Sequence[tuple[Sequence[int], bool]]) -> Encoded:
    ids = tuple(number for part, _ in parts for number in part)
    trained = [learnt for part, learnt in parts for _ in part]
    # Nothing comes before the first token that it could be told from.
    return Encoded(ids, (False, *trained[1:]))
