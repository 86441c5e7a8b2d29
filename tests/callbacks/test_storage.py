from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file

from r1lit.callbacks.storage import StorageError, storing


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """The system itself cuts off what is longer, in the middle of the writing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_the_system_refuses_is_told_with_its_remedy(tmp_path):
    with pytest.raises(StorageError) as caught, files_up_to(1000), storing(tmp_path / "big", "then go on"):
        (tmp_path / "big").write_bytes(bytes(5000))
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'big'} could not be written (EFBIG: ")
    assert text.endswith("raise the limit on file sizes (ulimit -f); then go on")


def test_safetensors_own_error_is_known(tmp_path):
    with pytest.raises(StorageError, match="EFBIG"), files_up_to(1000), storing(tmp_path / "weights"):
        save_file({"a": torch.zeros(5000)}, tmp_path / "weights")


def test_a_full_device_asks_for_room(tmp_path):
    told = pytest.raises(StorageError, match=r"ENOSPC.*make room on that disk")
    with told, storing(tmp_path / "x"), open("/dev/full", "wb", buffering=0) as full:
        full.write(b"x")


def test_the_file_that_the_error_names_is_the_one_told(tmp_path):
    with pytest.raises(StorageError, match=r"^/elsewhere/f could not be written"), storing(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/f")


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), storing(tmp_path):
        (tmp_path / "absent").read_text()
    with pytest.raises(ValueError), storing(tmp_path):
        raise ValueError
