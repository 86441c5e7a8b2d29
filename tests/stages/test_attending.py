from __future__ import annotations

import io
import json

import pytest
from composing import run_of
from rich.console import Console
from small_models import make_model

from r1lit.settings import ConfigError
from r1lit.stages.attending import show_attention
from r1lit.stages.summary import Summary


def shown(folder, kind: str, *overrides: str) -> tuple[str, dict]:
    out = Console(file=io.StringIO(), width=200)
    summary = Summary(folder, out)
    show_attention(run_of(folder, *overrides), make_model(kind), summary)
    return out.file.getvalue().strip(), json.loads((folder / "summary.json").read_text())["attention"]


def test_the_layout_of_sequences_is_said_with_its_reason(tmp_path):
    assert shown(tmp_path, "qwen3", "trainer.accelerator=cpu") == (
        "attention: sdpa, sequences packed end to end (CPU)",
        {"name": "sdpa", "sequences": "packed"},
    )
    assert shown(tmp_path, "qwen3", "model.packing=padded", "trainer.accelerator=cpu") == (
        "attention: sdpa, sequences padded by length (CPU)",
        {"name": "sdpa", "sequences": "padded"},
    )
    assert shown(tmp_path, "bloom", "trainer.accelerator=cpu") == (
        "attention: eager, sequences padded by length, since BloomForCausalLM does not keep packed ones apart (CPU)",
        {"name": "eager", "sequences": "padded"},
    )
    with pytest.raises(ConfigError, match=r"model\.packing=packed, but BloomForCausalLM does not keep"):
        shown(tmp_path, "bloom", "model.packing=packed", "trainer.accelerator=cpu")
