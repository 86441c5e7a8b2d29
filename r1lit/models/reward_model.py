"""Reward models: a policy's backbone under a head of one number, as transformers' sequence-classification classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from r1lit.models.adapters import adapt
from r1lit.models.attention import attention_at_load
from r1lit.models.files import load_part, locate
from r1lit.models.loading import (
    ModelSettings,
    disable_dropout,
    load_tokenizer,
    require_causal,
    require_complete,
    require_vocabulary,
    stop_ids,
)
from r1lit.models.lora import LoraSettings
from r1lit.models.memory import prepare_layers
from r1lit.models.quantization import quantized
from r1lit.models.rope import stretch_positions

HEAD = "score"
"""What transformers calls the head of its sequence-classification classes."""

_SUFFIX = "ForSequenceClassification"


@dataclass(frozen=True)
class Scoring:
    """How a reward model wants to be asked and how its scores are spread; ``r1lit`` in its ``config.json``.

    Attributes:
        kind: ``pairwise``, scores that only compare; ``pointwise``, scores whose sigmoid is a probability.
        part: what of a reply it was trained to see: its final ``answer``, or the whole ``response``.
        template: of its plain prompts.
        mean, std: of its scores of the replies that it was measured on; None where it was not.
        rows: how many replies these were.
    """

    kind: Literal["pairwise", "pointwise"] = "pairwise"
    part: Literal["answer", "response"] = "answer"
    template: str = "r1_zero"
    mean: float | None = None
    std: float | None = None
    rows: int = 0


def new_reward_model(
    settings: ModelSettings, head_std: float = 0.02, seed: int = 0
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A policy's backbone under a fresh head drawn from the seed, or a reward model whose training goes on.

    Raises:
        FileNotFoundError: for a folder that is missing, or that holds no config or no weights.
        ValueError: for what `load_policy` refuses, and for architectures without a sequence-classification class.
    """
    config = load_part("config", settings.path, AutoConfig, locate(settings.path))
    trained = _is_reward_model(config)
    if trained:
        _require_one_score(config, settings.path)
    else:
        require_causal(config, settings.path)
    if settings.rope_scaling:
        stretch_positions(config, settings.rope_scaling, settings.path)
    config.num_labels = 1
    model, tokenizer = _load(settings, config, {f"{HEAD}.weight"} if not trained else set())
    if not trained:
        head = getattr(model, HEAD).weight
        drawn = torch.empty(head.shape).normal_(std=head_std, generator=torch.Generator().manual_seed(seed))
        head.data.copy_(drawn)
    model = adapt(model, settings.path, settings.lora, heads=[HEAD])
    prepare_layers(model, settings.activation_checkpointing, settings.compile)
    return model, tokenizer


def alone_problem(lora: LoraSettings) -> str | None:
    """What speaks against writing a reward model's adapters alone: its head is trained beside them."""
    if not lora.rank or lora.merge:
        return None
    return "model.lora.merge=false, but a reward model's head is new and in no adapter; set model.lora.merge=true"


def load_reward_model(settings: ModelSettings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Scoring | None]:
    """A trained reward model, its tokenizer, and how it wants to be asked where r1lit trained it.

    Raises:
        FileNotFoundError: for a folder that is missing, or that holds no config or no weights.
        ValueError: for a model that is no reward model, or whose files cannot be loaded.
    """
    config = load_part("config", settings.path, AutoConfig, locate(settings.path))
    if not _is_reward_model(config):
        raise ValueError(
            f"model.path={settings.path} holds {' or '.join(config.architectures or ['no architecture'])}, which gives "
            f"no scores; train a reward model from it: r1lit stage=reward_model model.path={settings.path}"
        )
    _require_one_score(config, settings.path)
    model, tokenizer = _load(settings, config, set())
    model = adapt(model, settings.path, settings.lora)
    return model.eval(), tokenizer, scoring_of(model)


def set_scoring(model: PreTrainedModel, scoring: Scoring) -> None:
    """Keep with the model how it wants to be asked; saved with its config."""
    model.config.r1lit = asdict(scoring)


def scoring_of(model: PreTrainedModel) -> Scoring | None:
    """How the model wants to be asked; None for one that r1lit did not train."""
    kept = getattr(model.config, "r1lit", None)
    known = {field.name for field in fields(Scoring)}
    return None if kept is None else Scoring(**{name: value for name, value in kept.items() if name in known})


def row_scores(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> Tensor:
    """float32 [N], the scores of N rows of token ids: the head's value at each row's last token.

    Rows are padded on the right and need no attention mask: a causal model's token never sees what follows it. The
    last token is transformers' own: the last that is not the padding token. Where padding and end are one token, that
    is the one before the end, in training as ever after.
    """
    padding = model.config.get_text_config().pad_token_id
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=padding)
    return model(input_ids=ids.to(model.device), use_cache=False).logits[:, 0].float()


@torch.no_grad()
def score_rows(model: PreTrainedModel, rows: Sequence[Sequence[int]], batch_rows: int) -> Tensor:
    """float32 [N] on the CPU, scored in batches of rows of like length, without gradients."""
    scores = torch.empty(len(rows), dtype=torch.float32)
    order = torch.tensor(sorted(range(len(rows)), key=lambda row: -len(rows[row])), dtype=torch.long)
    for part in order.split(batch_rows) if len(order) else ():
        scores[part] = row_scores(model, [rows[row] for row in part.tolist()]).cpu()
    return scores


def _is_reward_model(config: PreTrainedConfig) -> bool:
    return any(name.endswith(_SUFFIX) for name in config.architectures or ())


def _require_one_score(config: PreTrainedConfig, name: str) -> None:
    if config.num_labels != 1:
        raise ValueError(
            f"model.path={name} gives {config.num_labels} numbers a reply, but a reward is one; give a model with "
            "num_labels=1"
        )


def _load(
    settings: ModelSettings, config: PreTrainedConfig, fresh: set[str]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model with dropout off, its weights complete but for the ``fresh`` ones, and a padding token set."""
    if MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None) is None:
        raise ValueError(
            f"model.path={settings.path}: transformers has no sequence-classification class for {config.model_type}; "
            "give another architecture, such as Llama, Qwen2 or Qwen3"
        )
    with _no_load_report():
        model, report = load_part(
            "weights",
            settings.path,
            AutoModelForSequenceClassification,
            locate(settings.path),
            config=config,
            dtype=settings.dtype,
            attn_implementation=attention_at_load(settings.attention, config),
            use_safetensors=True,
            output_loading_info=True,
            **quantized(settings.quantization, settings.dtype, config),
        )
    # What has no place is the head over the vocabulary, unless it belongs to the backbone.
    lost = [key for key in report["unexpected_keys"] if str(key).startswith(f"{model.base_model_prefix}.")]
    require_complete(
        report | {"missing_keys": set(report["missing_keys"]) - fresh, "unexpected_keys": lost}, settings.path
    )
    tokenizer = load_tokenizer(settings)
    require_vocabulary(model, tokenizer, settings.path)
    if tokenizer.pad_token_id is None:
        # An added padding token would need a row of the embeddings; padding follows all that counts.
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(stop_ids(model, tokenizer)[-1])
    for holder in (model.config, model.config.get_text_config()):
        holder.pad_token_id = tokenizer.pad_token_id
    disable_dropout(model)
    return model, tokenizer


@contextmanager
def _no_load_report() -> Iterator[None]:
    """No warning of a head that is fresh on purpose; what else is amiss, `require_complete` says."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
