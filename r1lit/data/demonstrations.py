"""Demonstrations ready to be learnt from: read, checked, encoded, and parted into training and validation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from r1lit.data.files import Row
from r1lit.data.parting import Fault, Loaded, Made, load_items, text_of
from r1lit.data.prompts import prompt_key, question
from r1lit.data.settings import DataSettings
from r1lit.text.thinking import split
from r1lit.text.turns import Encoded, TurnEncoder

FORMS = ("prompt", "response", "messages", "text")
"""The columns that a demonstration is made of; the others go with it."""

EXPECTED = "give it prompt and response (or completion), or messages; raw text takes sft.loss_on=text"


@dataclass(frozen=True)
class Demonstration:
    """One example of what to say.

    Attributes:
        ids: token ids, from the prompt's beginning to the end of the last answer.
        trained: for each token, True where the loss counts it: what the model is to say.
        columns: the other columns of the dataset's row.
        origin: where the row came from, ``file:line``.
    """

    ids: tuple[int, ...]
    trained: tuple[bool, ...]
    columns: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""


LoadedDemonstrations = Loaded[Demonstration]
"""The demonstrations of a run."""


def load_demonstrations(
    settings: DataSettings,
    tokenizer: Any,
    loss_on: str = "responses",
    max_tokens: int = 32768,
    held_prompts: Collection[str] = (),
) -> LoadedDemonstrations:
    """Read every source, leave out what cannot be used, and hold out a part for validation.

    Rows have ``prompt`` (a text or messages) and ``response`` (or ``completion``: a text or a list of one assistant
    message), or ``messages``; or ``text``, where ``loss_on`` is that.

    Args:
        settings: what to read, and how; plain prompts go into its template.
        tokenizer: of the model that will learn.
        loss_on: ``responses``, every answer of the assistant's in ``messages``; ``last_response``, the last one;
            ``text``, every token of raw text.
        max_tokens: longer demonstrations are left out.
        held_prompts: keys of prompts that answers are measured on, from `r1lit.data.prompts.measured_keys`;
            demonstrations of them are left out.

    Raises:
        DataError: for a source that cannot be read, has more bad rows than allowed, or leaves nothing to train on.
        ValueError: where the tokenizer has no end-of-sequence token.
    """
    encoder = TurnEncoder(tokenizer, settings.template)
    encode: Encode = _from_text if loss_on == "text" else _from_row(every=loss_on == "responses")

    def make(row: Row) -> Made[Demonstration] | Fault:
        try:
            encoded = encode(row, encoder)
        except ValueError as error:
            return "bad text", str(error)
        return _made(row, encoded, max_tokens) if isinstance(encoded, Encoded) else encoded

    return load_items(settings, make, derive=explicit, noun="demonstration", held_prompts=held_prompts)


def explicit(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row with the columns that r1lit knows: TRL's ``completion`` is the response, and what comes before the answer
    in ``messages``, or raw text, is the prompt, by which rows are held out."""
    if "response" not in columns and "completion" in columns:
        columns = {"response" if name == "completion" else name: value for name, value in columns.items()}
    if "prompt" in columns:
        return columns
    if "messages" in columns:
        return {**columns, "prompt": _before_the_answer(columns["messages"])}
    return {**columns, "prompt": columns["text"]} if "text" in columns else columns


def _before_the_answer(messages: Any) -> Any:
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        return messages
    turns = [number for number, message in enumerate(messages) if message.get("role") == "assistant"]
    return messages[: turns[-1]] if turns else messages


Encode = Callable[[Row, TurnEncoder], Encoded | Fault]
"""Makes a row's token ids, or gives the reason against it and what was found; raises ValueError for a bad text."""


def _from_text(row: Row, encoder: TurnEncoder) -> Encoded | Fault:
    text = row.columns.get("text")
    if "text" not in row.columns:
        return "missing column", f"no column text, which sft.loss_on=text reads; the row has {', '.join(row.columns)}"
    if not isinstance(text, str) or not text.strip():
        return "empty text", f"text={text!r} says nothing"
    return encoder.encode_text(text)


def _from_row(every: bool) -> Encode:
    def encode(row: Row, encoder: TurnEncoder) -> Encoded | Fault:
        if "response" in row.columns:
            return _from_response(row, encoder)
        if "messages" in row.columns:
            return _from_messages(row, encoder, every)
        return "missing column", f"the row has {', '.join(row.columns)}, but no answer; {EXPECTED}"

    return encode


def _from_response(row: Row, encoder: TurnEncoder) -> Encoded | Fault:
    prompt = question(row.columns["prompt"])
    if isinstance(prompt, tuple):
        return prompt
    response = _answer(row.columns["response"])
    if isinstance(response, tuple):
        return response
    if isinstance(prompt, str):
        return _whole(response) or encoder.encode_answer(prompt, response)
    messages = [*prompt, {"role": "assistant", "content": response}]
    return _whole(response) or encoder.encode_conversation(messages)


def _answer(response: Any) -> str | Fault:
    """The text of a response: as it stands, or a list of one assistant message."""
    if isinstance(response, Sequence) and not isinstance(response, str):
        roles = [message.get("role") if isinstance(message, Mapping) else None for message in response]
        if roles != ["assistant"]:
            return "bad response", f"response={response!r} is not one message of the assistant's"
        response = response[0].get("content")
    if response is None or (isinstance(response, str) and not response.strip()):
        return "no trained token", f"response={response!r} says nothing"
    return response if isinstance(response, str) else ("bad response", f"response={response!r} is no text")


def _from_messages(row: Row, encoder: TurnEncoder, every: bool) -> Encoded | Fault:
    messages = row.columns["messages"]
    answers = [message.get("content") for message in _assistants(messages)]
    if isinstance(messages, list) and not any(answers):
        return "no trained token", "the assistant says nothing in these messages"
    learnt = answers if every else answers[-1:]
    problems = (_whole(answer) for answer in learnt if isinstance(answer, str))
    return next(filter(None, problems), None) or encoder.encode_conversation(messages, every)


def _assistants(messages: Any) -> list[Mapping[str, Any]]:
    found = [message for message in messages if isinstance(message, Mapping)] if isinstance(messages, list) else []
    return [message for message in found if message.get("role") == "assistant"]


def _whole(answer: str) -> Fault | None:
    """What is wrong with an answer that was cut short: it would teach to stop in mid-thought."""
    if split(answer).answer is not None:
        return None
    return "no final answer", f"the answer ends within its reasoning, or says nothing after it: ...{answer[-60:]!r}"


def _made(row: Row, encoded: Encoded, max_tokens: int) -> Made[Demonstration] | Fault:
    if len(encoded.ids) > max_tokens:
        return "over-long demonstration", f"{len(encoded.ids)} tokens, more than sft.max_tokens={max_tokens}"
    if not any(encoded.trained):
        return "no trained token", "there is nothing to learn in it"
    columns = {name: value for name, value in row.columns.items() if name not in FORMS}
    made = Demonstration(encoded.ids, encoded.trained, columns, row.origin)
    return Made(made, (encoded.ids, encoded.trained), text_of(row.columns["prompt"]), _asked(row.columns))


def _asked(columns: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys of what a row shows answers to: its prompt, and what comes before each answer in ``messages``."""
    asked, messages = [columns["prompt"]], columns.get("messages")
    # A response is learnt instead of the messages beside it.
    if isinstance(messages, list) and "response" not in columns:
        turns = [message.get("role") if isinstance(message, Mapping) else None for message in messages]
        asked += [messages[:number] for number, role in enumerate(turns) if number and role == "assistant"]
    return tuple(map(prompt_key, asked))
