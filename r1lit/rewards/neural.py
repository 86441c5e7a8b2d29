"""Rewards that are models: helpfulness judged by the final answer, harmlessness by the whole response.

As R1 has them (arXiv 2501.12948, section 2.2.2). Nothing heavy is imported before one of them is made, so that the
workers of other rewards start without torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from r1lit.distributed.launch import launched
from r1lit.text.replies import PARTS, ReplyEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FLOOR = 2.0
"""A completion without anything to judge scores at most this many standard deviations below the model's mean."""

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "bfloat16", "float16")


class NeuralReward:
    """The scores of a reward model, one a completion.

    A completion that holds nothing of the part that is judged, reasoning that was never closed for instance, is given
    the score of an empty reply, and at most ``mean - FLOOR * std`` where the model keeps these: no reply must not beat
    a poor one. A row longer than the model's positions is not judged (None).

    Args:
        model: a reward model's folder, from ``stage=reward_model`` or another maker: a sequence-classification model
            with one label, in safetensors.
        batch_size: rows scored together.
        device: ``auto`` takes a GPU where there is one.
        dtype: of the weights; ``auto`` is what the files hold.
        normalize: subtract the model's mean and divide by its deviation over the replies it was measured on.
        squash: give the sigmoid of the score, in (0, 1).
        template: of plain prompts; null is what the model was trained with, or the tokenizer's chat template for a
            model of another maker.
        place: puts the model where it computes, in place of ``device``; for `r1lit.rewards.sharded`, not for a
            configuration.

    Raises:
        ValueError: for a model that cannot be loaded, or that was trained to see another part than it would be shown.
    """

    part: str

    def __init__(
        self,
        model: str,
        batch_size: int = 16,
        device: str = "auto",
        dtype: str = "auto",
        normalize: bool = False,
        squash: bool = False,
        template: str | None = None,
        place: Callable[[PreTrainedModel], object] | None = None,
    ):
        import torch

        from r1lit.models.loading import ModelSettings
        from r1lit.models.reward_model import load_reward_model, score_rows

        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}, but rows are scored in batches; set it >= 1")
        for name, value, known in (("device", device, DEVICES), ("dtype", dtype, DTYPES)):
            if value not in known:
                raise ValueError(f"{name}={value!r} is none; set {', '.join(known)}")
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device=cuda, but torch sees no GPU; set device=auto")
        try:
            self.model, tokenizer, self._scoring = load_reward_model(ModelSettings(path=model, dtype=dtype))
        except (OSError, ValueError) as error:
            raise ValueError(str(error).replace("model.path=", "model=")) from error
        self._refuse(model, normalize)
        if place is None:
            # The workers of each of a run's processes share that process's GPU.
            gpu = torch.device("cuda", launched().local_rank)
            self.model.to(gpu if device != "cpu" and torch.cuda.is_available() else "cpu")
        else:
            place(self.model)
        self._batch_size, self._normalize, self._squash = batch_size, normalize, squash
        self._score_rows, self._sigmoid = score_rows, torch.sigmoid
        kept = self._scoring.template if self._scoring else None
        # A model of another maker was trained on conversations; one without a chat template on text as it stands.
        self._as_messages = (template or kept) is None and bool(tokenizer.chat_template)
        self._encoder = ReplyEncoder(tokenizer, template or kept or "none")
        self._positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        # What torch sets up at its first pass is then no part of what a call may cost.
        self(["?"], ["!"])

    def __call__(
        self, prompts: list[Any], completions: list[str], answers: list[str | None] | None = None
    ) -> list[float | None]:
        """The scores of N completions.

        Args:
            prompts: N prompts, texts or lists of messages.
            completions: N texts, reasoning included.
            answers: N answers cut out of the completions, where that was done already.
        """
        seen = self._seen(completions, answers)
        rows = [self._row(prompt, text or "") for prompt, text in zip(prompts, seen, strict=True)]
        fits = [number for number, row in enumerate(rows) if self._positions is None or len(row) <= self._positions]
        scores = self._score_rows(self.model, [rows[number] for number in fits], self._batch_size)
        given: list[float | None] = [None] * len(rows)
        for number, score in zip(fits, scores, strict=True):
            given[number] = self._given(score, nothing=seen[number] is None)
        return given

    def _seen(self, completions: list[str], answers: list[str | None] | None) -> list[str | None]:
        return [PARTS[self.part](text) for text in completions]

    def _row(self, prompt: Any, text: str) -> tuple[int, ...]:
        asked = [{"role": "user", "content": prompt}] if self._as_messages and isinstance(prompt, str) else prompt
        return self._encoder.encode_row(asked, text)

    def _given(self, score: Any, nothing: bool) -> float:
        scoring = self._scoring
        if nothing and scoring is not None and scoring.std is not None:
            score = score.clamp(max=scoring.mean - FLOOR * scoring.std)
        if self._normalize:
            score = (score - scoring.mean) / scoring.std
        return float(self._sigmoid(score) if self._squash else score)

    def _refuse(self, model: str, normalize: bool) -> None:
        scoring = self._scoring
        if scoring is not None and scoring.part != self.part:
            raise ValueError(
                f"model={model} was trained to see the {scoring.part} of a reply, but {type(self).__name__} shows it "
                f"the {self.part}; train one with reward_model.part={self.part}"
            )
        if normalize and (scoring is None or not scoring.std):
            raise ValueError(
                f"normalize=true, but model={model} keeps no mean and deviation of its scores; set normalize=false, or "
                "train it with stage=reward_model"
            )


class Preference(NeuralReward):
    """How helpful the final answer is; it never sees the reasoning, so it cannot disturb it."""

    part = "answer"

    def _seen(self, completions: list[str], answers: list[str | None] | None) -> list[str | None]:
        return super()._seen(completions, None) if answers is None else answers


class Harmlessness(NeuralReward):
    """How harmless the whole response is, the reasoning included."""

    part = "response"
