"""Rows from JSONL, Parquet and Hugging Face data sets, each with the place it came from."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1lit.settings import UserError, suggest

JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
SUFFIXES = (*JSON_SUFFIXES, ".parquet")

_MARK = b"\xef\xbb\xbf"
"""The byte order mark that some programs begin UTF-8 with."""

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


class DataError(UserError, ValueError):
    """Data that cannot be used, with where it lies and what to do."""


class HubError(DataError):
    """A data set that could not be fetched from the hub; a copy of it on this machine would do."""


@dataclass(frozen=True)
class Row:
    """One row as it was read.

    Attributes:
        columns: its columns; empty where the row could not be read.
        origin: ``file:line`` or ``data set:row``, counted from 1.
        problem: why it could not be read: a reason to count under and what was found.
    """

    columns: dict[str, Any]
    origin: str
    problem: tuple[str, str] | None = None


def path_problem(path: str) -> str | None:
    """What is wrong with a path, as far as can be told without reading it: names on the hub are taken on trust."""
    place = Path(path).expanduser()
    if place.is_dir():
        return None if any(place.iterdir()) else f"{path} is an empty folder"
    if place.is_file():
        suffix = _data_suffix(place)
        return None if suffix in SUFFIXES else f"{path} ends in {suffix or 'nothing'}; it must be {', '.join(SUFFIXES)}"
    if _data_suffix(place) in SUFFIXES or not _HUB_NAME.fullmatch(path):
        return f"{path} does not exist; {_neighbours(place)}"
    return None


def hub_problem(name: str) -> str | None:
    """What is wrong with a data set's name on the hub, as far as can be told here."""
    return None if _HUB_NAME.fullmatch(name) else f"{name} is no name on the hub; write OWNER/NAME"


def read_path(path: str, subset: str | None = None, split: str | None = None) -> Iterator[Row]:
    """The rows of a file, of a folder, or of a data set on the hub.

    Raises:
        DataError: where it cannot be read at all; a row that cannot be read is a `Row` with a problem.
    """
    place = Path(path).expanduser()
    if not place.is_file():
        return _read_dataset(path, place, subset, split)
    if subset or split:
        raise DataError(f"{path} is one file and has no subset={subset} or split={split}; leave them out")
    if _data_suffix(place) == ".parquet":
        return _read_parquet(path, place)
    return _read_array(path, place) if _is_array(place) else _read_lines(path, place)


def _open(place: Path) -> Any:
    return gzip.open(place, "rb") if place.suffix == ".gz" else place.open("rb")


def _is_array(place: Path) -> bool:
    """True where a .json file holds one list of rows instead of a row a line."""
    if _data_suffix(place) != ".json":
        return False
    with _open(place) as file:
        try:
            return file.read(1000).removeprefix(_MARK).lstrip()[:1] == b"["
        except (EOFError, gzip.BadGzipFile, zlib.error):
            # Reading the lines says what is wrong.
            return False


def _read_array(path: str, place: Path) -> Iterator[Row]:
    try:
        with _open(place) as file:
            rows = json.loads(file.read().decode("utf-8-sig"))
    except (EOFError, gzip.BadGzipFile, zlib.error, ValueError, RecursionError) as error:
        raise DataError(f"{path} begins as a JSON list, but cannot be read: {error}") from error
    for number, row in enumerate(rows, start=1):
        yield _parse(json.dumps(row).encode(), f"{path}:{number}")


def _read_lines(path: str, place: Path) -> Iterator[Row]:
    number = 0
    try:
        with _open(place) as file:
            for number, line in enumerate(file, start=1):
                text = line.removeprefix(_MARK) if number == 1 else line
                if text.strip():
                    yield _parse(text, f"{path}:{number}")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged after line {number}: {error}; fetch or compress it again") from error


def _parse(line: bytes, origin: str) -> Row:
    try:
        columns = json.loads(line.decode())
        # A lone half of a surrogate pair, which JSON can spell, is no text and no tokenizer takes it.
        json.dumps(columns, ensure_ascii=False).encode()
    except UnicodeError as error:
        return Row({}, origin, ("not UTF-8", f"{error.reason} at position {error.start} of {line[:60]!r}"))
    except (ValueError, RecursionError) as error:
        return Row({}, origin, ("broken JSON", f"{error} in {_shorten(line)}"))
    if not isinstance(columns, dict):
        return Row({}, origin, ("not an object", f"{_shorten(line)} is no {{...}}; write one JSON object a line"))
    return Row(columns, origin)


def _read_parquet(path: str, place: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(place) as file:
            for batch in file.iter_batches():
                for columns in batch.to_pylist():
                    number += 1
                    yield Row(columns, f"{path}:{number}")
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no readable Parquet file after row {number}: {error}") from error


def _read_dataset(path: str, place: Path, subset: str | None, split: str | None) -> Iterator[Row]:
    dataset = _load_dataset(path, place, subset)
    if isinstance(dataset, dict):
        chosen = split or ("train" if len(dataset) > 1 else next(iter(dataset)))
        if chosen not in dataset:
            raise DataError(f"{path} has no split={chosen}; {suggest(chosen, dataset)}")
        dataset, name = dataset[chosen], f"{path}[{chosen}]"
    elif split and split != str(dataset.split):
        raise DataError(f"{path} holds one split alone, no split={split}; leave it out")
    else:
        name = path
    for number, columns in enumerate(dataset, start=1):
        yield Row(dict(columns), f"{name}:{number}")


def _load_dataset(path: str, place: Path, subset: str | None) -> Any:
    # Heavy, and not needed for plain files.
    import datasets

    saved = place.is_dir() and any((place / name).is_file() for name in ("state.json", "dataset_dict.json"))
    if saved and subset:
        raise DataError(f"{path} was written by save_to_disk and has no subset={subset}; leave it out")
    try:
        if saved:
            return datasets.load_from_disk(str(place))
        return datasets.load_dataset(str(place) if place.is_dir() else path, subset)
    # Loading meets the network, caches and a dozen file formats, each with exceptions of its own.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        problem = f"{path} cannot be loaded as a Hugging Face data set ({reason})"
        if place.is_dir():
            raise DataError(f"{problem}; check its files") from error
        raise HubError(f"{problem}; no such local path either; {_neighbours(place)}") from error


def _data_suffix(place: Path) -> str:
    return Path(place.stem).suffix if place.suffix == ".gz" else place.suffix


def _neighbours(place: Path) -> str:
    if not place.parent.is_dir():
        return f"there is no folder {place.parent} either"
    names = [entry.name for entry in place.parent.iterdir() if entry.is_dir() or _data_suffix(entry) in SUFFIXES]
    return f"in {place.parent}: {suggest(place.name, names)}"


def _shorten(line: bytes) -> str:
    text = line.decode(errors="replace").strip()
    return text if len(text) <= 60 else f"{text[:57]}..."
