"""What a Weights & Biases run keeps on this disk, read back from its ``run-ID.wandb`` file."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAGIC = b":W&B"
HEADER, BLOCK = 7, 32768
"""Bytes before the first block, and in a block."""

_PREFIX = struct.Struct("<IHB")
_FULL, _LAST = 1, 4


def records(path: Path) -> Iterator[Any]:
    """The protobuf records of a file in LevelDB's log format, up to where it ends or was cut off.

    Raises:
        ValueError: where it is no such file.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    if data and not data.startswith(MAGIC):
        raise ValueError(f"{path} is not a W&B transaction log")
    position, whole = HEADER, b""
    while position + _PREFIX.size <= len(data):
        if (left := BLOCK - position % BLOCK) < _PREFIX.size:
            position += left
            continue
        checksum, length, kind = _PREFIX.unpack_from(data, position)
        part = data[position + _PREFIX.size : position + _PREFIX.size + length]
        if not kind or len(part) < length or zlib.crc32(bytes([kind]) + part) != checksum:
            return
        position, whole = position + _PREFIX.size + length, whole + part
        if kind in (_FULL, _LAST):
            yield Record.FromString(whole)
            whole = b""


def history(path: Path) -> Iterator[dict[str, Any]]:
    """The rows that were logged, oldest first, by metric name."""
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}


def last_step(directory: Path, run_id: str) -> int | None:
    """The last ``step`` in what a run has left in ``directory``; None without a file of it, -1 without a step."""
    files = list((directory / "wandb").glob(f"*run-*-{run_id}*/run-{run_id}.wandb"))
    steps = [row["step"] for path in files for row in history(path) if "step" in row]
    return max(steps, default=-1) if files else None
