"""What of a model's config tells whether a server's engine computes what the trainer's policy does."""

from __future__ import annotations

import json
from typing import Any

COMPARED = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "tie_word_embeddings",
    "sliding_window",
    "layer_types",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "attention_bias",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "query_pre_attn_scalar",
)

ROPE_DEFAULTS: dict[str, Any] = {"rope_type": "default", "partial_rotary_factor": 1.0}
"""What rotary positions are where a config does not say."""

ROPE_DEFAULTS_OF: dict[str, dict[str, Any]] = {"yarn": {"beta_fast": 32, "beta_slow": 1, "truncate": True}}
"""And what a type of them has of its own."""

POSITIONS = "max_position_embeddings"

LAUNCH = "python -m r1lit.rollout.vllm_serve MODEL --port PORT"


def shape_of(config: Any) -> dict[str, Any]:
    """The sizes of a model and its rotary positions, as plain values in a form that equal models share."""
    text = config.get_text_config()
    shape = {name: getattr(text, name, None) for name in COMPARED}
    if shape["num_key_value_heads"] is None:
        shape["num_key_value_heads"] = shape["num_attention_heads"]
    return shape | {"rope": _rope(text), POSITIONS: getattr(text, POSITIONS, None)}


def shape_problem(url: str, served: dict[str, Any], mine: dict[str, Any]) -> str | None:
    """What keeps a server of one shape from serving a policy of another, if anything."""
    # How many positions there are limits what is asked for, and changes nothing that is computed.
    apart = [name for name, value in mine.items() if name != POSITIONS and served.get(name) != value]
    if not apart:
        return None
    told = ", ".join(f"{name}={_shown(served.get(name))} (here {_shown(mine[name])})" for name in apart)
    if apart != ["rope"]:
        return f"rollout.server.url={url} serves another model: {told}; start it with this one: {LAUNCH}"
    overrides = json.dumps({"rope_parameters": mine["rope"], POSITIONS: mine[POSITIONS]})
    return (
        f"rollout.server.url={url} serves this model with other rotary positions: {told}; start it on a folder whose "
        f"config.json has them, or as {LAUNCH} --hf-overrides '{overrides}'"
    )


def _rope(text: Any) -> dict[str, Any] | None:
    held = getattr(text, "rope_parameters", None)
    theta = getattr(text, "rope_theta", None)
    if held and all(value is None or isinstance(value, dict) for value in held.values()):
        # By the kind of layer.
        return {kind: value and _plain(value, theta) for kind, value in sorted(held.items())}
    return _plain(held or {}, theta) if held or theta else None


def _plain(held: dict[str, Any], theta: float | None) -> dict[str, Any]:
    """One set of rotary parameters, without what only repeats a default or an older name."""
    told = {name: value for name, value in held.items() if value is not None}
    kind = told.setdefault("rope_type", told.pop("type", ROPE_DEFAULTS["rope_type"]))
    told.pop("type", None)
    if theta is not None:
        told.setdefault("rope_theta", theta)
    defaults = ROPE_DEFAULTS | ROPE_DEFAULTS_OF.get(kind, {})
    told = {name: value for name, value in told.items() if name == "rope_type" or value != defaults.get(name)}
    return dict(sorted(told.items()))


def _shown(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)
