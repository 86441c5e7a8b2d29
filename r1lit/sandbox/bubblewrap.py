"""A command inside bubblewrap: no network, nothing to write to but a small /tmp, nobody else's processes."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from r1lit.sandbox.seccomp import program
from r1lit.settings import UserError

TMP_BYTES = 64 << 20
"""What may be written to /tmp in all; it is memory."""

REMEDY = (
    "install bubblewrap (Debian, Ubuntu: apt install bubblewrap; Fedora: dnf install bubblewrap), or, where everything "
    "may be lost that a program can reach, set sandbox=none_unsafe"
)


class SandboxError(UserError):
    """Programs cannot be run safely here, or not at all."""


def find() -> str:
    """Where bubblewrap is.

    Raises:
        SandboxError: with the remedy, where it is not, or the filter of system calls does not know this machine.
    """
    if not sys.platform.startswith("linux"):
        raise SandboxError(f"programs are run in bubblewrap, which {sys.platform} has not; use Linux")
    found = shutil.which("bwrap")
    if found is None:
        raise SandboxError(f"programs are run in bubblewrap, and there is no bwrap on PATH; {REMEDY}")
    _filter()
    return found


def wrap(bwrap: str, command: Sequence[str], files: dict[str, int], seccomp: int) -> list[str]:
    """The command line that runs a command inside.

    Args:
        bwrap: where bubblewrap is. Start it with an empty environment: what it was started with can be read inside,
            whatever it is told to clear.
        command: what to run; the interpreter and the libraries of the system are there, under their own paths.
        files: descriptors whose content is there as a file, by its path.
        seccomp: descriptor of the filter.
    """
    arguments = [bwrap, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    arguments += ["--uid", "65534", "--gid", "65534", "--hostname", "sandbox"]
    # Before what lies in it: an environment under /tmp would be hidden.
    arguments += ["--size", str(TMP_BYTES), "--tmpfs", "/tmp"]
    for place in _readable():
        link = Path(place).is_symlink()
        arguments += ["--symlink", os.readlink(place), place] if link else ["--ro-bind", place, place]
    # To root's own processes, in whatever namespace, the kernel's settings in /proc/sys stand open.
    arguments += ["--proc", "/proc", "--remount-ro", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    for path, descriptor in files.items():
        arguments += ["--ro-bind-data", str(descriptor), path]
    arguments += ["--remount-ro", "/", "--chdir", "/tmp"]
    for name, value in ENVIRONMENT.items():
        arguments += ["--setenv", name, value]
    return [*arguments, "--seccomp", str(seccomp), "--", *command]


ENVIRONMENT = {"HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
"""All that a program finds in its environment."""


def seccomp_file() -> int:
    """A descriptor of the filter, to be closed by the caller."""
    return data_file(_filter())


def data_file(content: bytes) -> int:
    """A descriptor of a file in memory, at its beginning, to be closed by the caller."""
    descriptor = os.memfd_create("r1lit")
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


@cache
def _filter() -> bytes:
    try:
        return program(platform.machine())
    except ValueError as error:
        raise SandboxError(f"programs cannot be kept from the kernel on this machine: {error}; use another") from error


@cache
def _readable() -> tuple[str, ...]:
    """What a Python program needs to see: the libraries of the system, the interpreter and its packages."""
    system = [path for path in ("/usr", "/lib", "/lib32", "/lib64", "/libx32") if Path(path).exists()]
    system += [path for path in ("/etc/ld.so.cache", "/nix/store") if Path(path).exists()]
    own = {sys.base_prefix, sys.base_exec_prefix, sys.prefix, str(Path(sys.executable).resolve().parents[1])}
    own |= {str(Path(path).resolve()) for path in own}
    return tuple(system + sorted(path for path in own if not path.startswith("/usr/") and path not in ("/", "/usr")))
