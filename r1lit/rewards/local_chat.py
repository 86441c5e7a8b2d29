"""A local model as a generative judge, through r1lit's own sampler: nothing leaves the machine."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from r1lit.rewards.chat import Conversation, Reply
from r1lit.rollout.sampler import Sampler
from r1lit.text.encoding import PromptEncoder
from r1lit.types import Prompt, Sampling


class LocalChat:
    """Answers conversations by sampling; a model without a chat template is given the messages' text as it stands.

    What is judged cannot become a special token, see `PromptEncoder`. The same conversations get the same replies.

    Args:
        sampler: on the model that answers.
        tokenizer: of that model.
        sampling: how replies are drawn, and how long one may be.
        seed: of the draws.
        positions: tokens that the model has room for, question and reply together; None where it has no limit.
    """

    def __init__(
        self,
        sampler: Sampler,
        tokenizer: PreTrainedTokenizerBase,
        sampling: Sampling,
        seed: int = 0,
        positions: int | None = None,
    ):
        self._sampler, self._sampling, self._seed = sampler, sampling, seed
        self._encoder = PromptEncoder(tokenizer, "none")
        self._room = None if positions is None else positions - sampling.max_tokens

    def complete(self, conversations: Sequence[Conversation]) -> list[Reply]:
        """One reply a conversation, in their order."""
        made = [self._prompt(conversation) for conversation in conversations]
        fitting = [prompt for prompt in made if isinstance(prompt, Prompt)]
        replies = iter(self._sampled(fitting) if fitting else [])
        return [next(replies) if isinstance(prompt, Prompt) else prompt for prompt in made]

    def _prompt(self, conversation: Conversation) -> Prompt | Reply:
        """The question as the model is given it, or why it cannot be."""
        messages = [dict(message) for message in conversation]
        plain = not self._encoder.tokenizer.chat_template
        raw = "\n\n".join(message["content"] for message in messages) if plain else messages
        try:
            ids, prefill = self._encoder.encode(raw)
        except ValueError as error:
            return Reply(None, "bad question", str(error))
        if self._room is not None and len(ids) > self._room:
            return Reply(None, "too long", f"a question of {len(ids)} tokens, where there is room for {self._room}")
        return Prompt(ids, raw, prefill=prefill)

    def _sampled(self, prompts: Sequence[Prompt]) -> list[Reply]:
        rollout = self._sampler.generate(prompts, 1, self._sampling, seed=self._seed)
        return [
            _reply(group.completions[0], group.truncated[0], len(group.prompt.ids), len(group.completion_ids[0]))
            for group in rollout.groups
        ]


def _reply(text: str, truncated: bool, prompt_tokens: int, completion_tokens: int) -> Reply:
    failure = "truncated" if truncated else None if text.strip() else "empty reply"
    return Reply(None if failure else text, failure, "", prompt_tokens, completion_tokens)
