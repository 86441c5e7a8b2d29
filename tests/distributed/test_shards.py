"""Checkpoints in shards: tensors and nothing else, and an index that cannot run code."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch.distributed import checkpoint

from r1lit.distributed.shards import INDEX, ShardsError, load_shards, read_whole, save_shards, stored_names

TENSORS = {
    "model.a": torch.arange(6.0).view(2, 3),
    "model.b": torch.ones(2, dtype=torch.bfloat16),
    "optimizer.a": torch.ones(1),
}


class Evil:
    def __reduce__(self):
        return print, ("it ran",)


def test_tensors_come_back_whole_and_in_part(tmp_path):
    save_shards(tmp_path, TENSORS)
    assert stored_names(tmp_path) == set(TENSORS)
    whole = read_whole(tmp_path, "model.")
    assert whole.keys() == {"a", "b"} and whole["b"].dtype == torch.bfloat16
    assert torch.equal(whole["a"], TENSORS["model.a"])
    wanted = {"optimizer.a": torch.zeros(1)}
    load_shards(tmp_path, wanted)
    assert wanted["optimizer.a"].item() == 1
    with pytest.raises(ShardsError, match=r"lacks 1 tensors \(model.c\)"):
        load_shards(tmp_path, {"model.c": torch.zeros(1)})


def test_neither_the_index_nor_a_value_is_unpickled_freely(tmp_path, capsys):
    save_shards(tmp_path / "index", TENSORS)
    (tmp_path / "index" / INDEX).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(pickle.UnpicklingError, match=r"names builtins\.print"):
        read_whole(tmp_path / "index", "model.")
    checkpoint.save({"model.a": "a text"}, checkpoint_id=tmp_path / "value")
    with pytest.raises(pickle.UnpicklingError, match=r"names .*BytesStorageMetadata"):
        load_shards(tmp_path / "value", {"model.a": "another"})
    assert "it ran" not in capsys.readouterr().out
