"""Disks that fill up and folders that may not be written, told in a way that one can act on."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from r1lit.settings import UserError

REMEDIES: Mapping[int, str] = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room within your quota",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EROFS: "choose a folder that can be written: runs=FOLDER",
    errno.EACCES: "allow access to it, or choose another folder: runs=FOLDER",
    errno.EPERM: "allow access to it, or choose another folder: runs=FOLDER",
}
"""What to do, by the system's error number."""


class StorageError(UserError):
    """Something could not be written, for a reason that lies outside r1lit."""


@contextmanager
def storing(path: Path, then: str = "") -> Iterator[None]:
    """Tell a failure to write ``path`` with its remedy, and with ``then``, what to do after.

    Raises:
        StorageError: for a full disk and its like; any other error passes as it is.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = error.errno if isinstance(error, OSError) else _number(error)
        if number not in REMEDIES:
            raise
        place = getattr(error, "filename", None) or path
        steps = "; ".join(step for step in (REMEDIES[number], then) if step)
        raise StorageError(f"{place} could not be written ({errno.errorcode[number]}: {error}); {steps}") from error


@contextmanager
def replacing(path: Path, then: str = "") -> Iterator[Path]:
    """Write a file whole or not at all: gives another name to write to, which becomes ``path`` at the end.

    Raises:
        StorageError: as `storing` does; what was there before is still there.
    """
    part = path.with_name(f"{path.name}.part")
    with storing(path, then):
        try:
            yield part
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def _number(error: SafetensorError) -> int | None:
    """The system's error number, which safetensors gives in words alone."""
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else None
