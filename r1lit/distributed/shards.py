"""Checkpoints in shards: a directory to which each process writes its own, and any number of them can read.

torch's distributed checkpointing, with tensors alone in it. What else there is lies beside them in a file that is
loaded with ``weights_only``; the index, which is a pickle, may name nothing but its own classes.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import checkpoint
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

REST = "rest.pt"
"""What is no sharded tensor."""

INDEX = ".metadata"


class ShardsError(ValueError):
    """A directory that does not hold the tensors that are asked for."""


def save_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write every process's shards of some tensors; all processes are to call it."""
    checkpoint.save(dict(tensors), storage_writer=FileSystemWriter(folder))


def load_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill tensors, sharded as they are now, from a directory, whatever they were sharded like; all processes are to
    call it.

    Raises:
        ShardsError: naming tensors that are not there.
    """
    reader = _Reader(folder)
    if missing := sorted(set(tensors) - set(reader.names())):
        raise ShardsError(f"{folder} lacks {len(missing)} tensors ({', '.join(missing[:3])})")
    checkpoint.load(dict(tensors), storage_reader=reader)


def read_whole(folder: Path, prefix: str) -> dict[str, Tensor]:
    """The whole tensors whose names begin with a prefix, which is cut off, in one process."""
    reader = _Reader(folder)
    found = {
        name: torch.empty(stored.size, dtype=stored.properties.dtype)
        for name, stored in reader.read_metadata().state_dict_metadata.items()
        if name.startswith(prefix) and isinstance(stored, TensorStorageMetadata)
    }
    checkpoint.load(found, storage_reader=reader, no_dist=True)
    return {name.removeprefix(prefix): tensor for name, tensor in found.items()}


def stored_shapes(folder: Path, prefix: str) -> dict[str, torch.Size]:
    """The shapes of the whole tensors whose names begin with a prefix, which is cut off."""
    found = _Reader(folder).read_metadata().state_dict_metadata.items()
    return {
        name.removeprefix(prefix): stored.size
        for name, stored in found
        if name.startswith(prefix) and isinstance(stored, TensorStorageMetadata)
    }


def stored_names(folder: Path) -> set[str]:
    """The names of the tensors in a directory."""
    return set(_Reader(folder).names())


class OwnReader:
    """Reads a directory for this process alone, whatever the others ask for; it reads the index once."""

    def __init__(self, folder: Path):
        self._reader = _Reader(folder)
        self._stored = self._reader.read_metadata().state_dict_metadata

    def shapes(self, names: Iterable[str]) -> dict[str, torch.Size]:
        """Those of some tensors, where they are there."""
        return {name: self._stored[name].size for name in names if name in self._stored}

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Some tensors, whole, on the host."""
        known = {name: self._stored[name] for name in names}
        found = {name: torch.empty(stored.size, dtype=stored.properties.dtype) for name, stored in known.items()}
        self.fill(found)
        return found

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Put what is stored into tensors of the same shapes."""
        with warnings.catch_warnings():
            # torch says that it takes the others to be away, which is what is meant.
            warnings.simplefilter("ignore")
            checkpoint.load(dict(tensors), storage_reader=self._reader, no_dist=True)


def read_rest(folder: Path) -> dict[str, Any]:
    """What is no sharded tensor."""
    return torch.load(folder / REST, map_location="cpu", weights_only=True)


class _Reader(FileSystemReader):
    """Reads an index that names nothing but its own classes."""

    def names(self) -> list[str]:
        return list(self.read_metadata().state_dict_metadata)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        self._index.storage_meta.load_id = self.load_id
        return self._index

    @cached_property
    def _index(self) -> Metadata:
        with (Path(self.path) / INDEX).open("rb") as file:
            return _Index(file).load()


class _Index(pickle.Unpickler):
    """Unpickles what an index of tensors is made of, and refuses all else, which could run code."""

    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if (module, name) not in KNOWN and not is_dtype:
            raise pickle.UnpicklingError(f"the index of a checkpoint names {module}.{name}, which it has no use for")
        return super().find_class(module, name)


KNOWN = frozenset(
    {
        ("torch.distributed.checkpoint.metadata", "Metadata"),
        ("torch.distributed.checkpoint.metadata", "MetadataIndex"),
        ("torch.distributed.checkpoint.metadata", "TensorStorageMetadata"),
        ("torch.distributed.checkpoint.metadata", "TensorProperties"),
        ("torch.distributed.checkpoint.metadata", "ChunkStorageMetadata"),
        ("torch.distributed.checkpoint.metadata", "StorageMeta"),
        ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"),
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        ("torch.serialization", "_get_layout"),
        ("torch", "Size"),
        ("pathlib", "PosixPath"),
        ("pathlib._local", "PosixPath"),
    }
)
"""What an index of tensors is made of. A value that is no tensor would be a pickle of its own, and is not in it."""
