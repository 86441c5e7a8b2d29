"""Data sets by their names on the Hugging Face hub, or copies of them on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from r1lit.data.files import HubError, Row, read_path


def read_hub(
    name: str, subset: str | None = None, split: str | None = None, files: Sequence[str] = ()
) -> Iterator[Row]:
    """The rows of a data set on the hub, or of some of its files.

    Files are for data sets that come with a program to load them, which nobody runs any more.

    Raises:
        HubError: where it cannot be fetched.
        DataError: as `read_path` does.
    """
    return _files(name, files) if files else read_path(name, subset, split)


def read_copy(
    path: str, subset: str | None = None, split: str | None = None, files: Sequence[str] = ()
) -> Iterator[Row]:
    """The rows of a copy of a data set of the hub: a folder as the data set is, or all that is wanted in one file.

    Raises:
        DataError: as `read_path` does.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return read_path(path)
    if files and place.is_dir():
        return chain.from_iterable(read_path(str(place / file)) for file in files)
    return read_path(path, subset, split)


def _files(name: str, files: Sequence[str]) -> Iterator[Row]:
    for file in files:
        for row in read_path(_fetch(name, file)):
            yield replace(row, origin=f"{name}/{file}:{row.origin.rpartition(':')[2]}")


def _fetch(name: str, file: str) -> str:
    """Where the hub's cache keeps a file of a data set, fetched now if it is not there."""
    # Heavy, and not needed for local files.
    from huggingface_hub import hf_hub_download

    try:
        return hf_hub_download(name, file, repo_type="dataset")
    # As with whole data sets: the network, the cache and the rights each have exceptions of their own.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise HubError(f"{name}/{file} cannot be fetched from the Hugging Face hub ({reason})") from error
