from __future__ import annotations

import platform
import struct

import pytest

from r1lit.sandbox.seccomp import ALLOW, ARCHITECTURES, DENIED, EPERM, ERRNO, KILL, program

REFUSED, UNKNOWN = ERRNO | EPERM, ERRNO | 38
# Numbers from the kernel's tables (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h).
CALLS = {
    "x86_64": {"read": 0, "mmap": 9, "clone": 56, "execve": 59, "socket": 41, "socketpair": 53, "clone3": 435},
    "aarch64": {"read": 63, "mmap": 222, "clone": 220, "execve": 221, "socket": 198, "socketpair": 199, "clone3": 435},
}
THREAD = 0x3D0F00
"""The flags with which the C library starts a thread."""


def answer(machine: str, number: int, argument: int = 0, architecture: int | None = None) -> int:
    """What the filter says to a call, by running it as the kernel does."""
    data = struct.pack("=iIQ6Q", number, architecture or ARCHITECTURES[machine], 0, argument, *[0] * 5)
    lines = list(struct.iter_unpack("=HBBI", program(machine)))
    accumulator, at = 0, 0
    while True:
        code, yes, no, value = lines[at]
        tests = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}
        if code == 0x06:
            return value
        if code == 0x20:
            accumulator, at = struct.unpack_from("=I", data, value)[0], at + 1
        else:
            at += 1 + (yes if tests[code] else no)


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_what_computes_is_allowed(machine):
    for name in ("read", "mmap", "execve"):
        assert answer(machine, CALLS[machine][name]) == ALLOW, name


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_threads_may_start_and_processes_may_not(machine):
    clone = CALLS[machine]["clone"]
    assert answer(machine, clone, THREAD) == ALLOW
    for flags in (17, 0, 0x10000000 | 17, 0x20000000):
        assert answer(machine, clone, flags) == REFUSED
    assert answer(machine, CALLS[machine]["clone3"]) == UNKNOWN


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_sockets_are_local(machine):
    for name in ("socket", "socketpair"):
        families = {family: answer(machine, CALLS[machine][name], family) for family in range(46)}
        # AF_UNIX alone: not internet (2, 10), netlink (16), the kernel's ciphers (38) or the host of a machine (40).
        assert {family for family, said in families.items() if said == ALLOW} == {1}
        assert set(families.values()) == {ALLOW, REFUSED}


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_what_is_denied_is_refused(machine):
    numbers = [pair[list(ARCHITECTURES).index(machine)] for pair in DENIED.values()]
    assert {answer(machine, number) for number in numbers if number is not None} == {REFUSED}
    assert len(set(numbers) - {None}) == len([number for number in numbers if number is not None])


def test_other_interfaces_are_closed():
    assert answer("x86_64", 0, architecture=0x40000003) == KILL
    assert answer("x86_64", 0x40000000 + 41, 2) == UNKNOWN
    assert answer("aarch64", 0, architecture=0xC000003E) == KILL


def test_a_machine_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="no system calls of riscv64 are known here"):
        program("riscv64")


def test_this_machine_is_known():
    assert len(program(platform.machine())) % 8 == 0
