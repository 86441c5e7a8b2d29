"""A filter of system calls for sandboxed programs, as the kernel takes it (classic BPF over ``struct seccomp_data``).

Namespaces leave the whole kernel within reach. The filter takes away what a program that computes never needs: other
processes, sockets but local ones, new namespaces, memory outside the limits, and the kernel's rarer doors.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

KILL, ALLOW, ERRNO = 0x8000_0000, 0x7FFF_0000, 0x0005_0000
EPERM, ENOSYS = 1, 38
AF_UNIX = 1
CLONE_THREAD = 0x0001_0000
X32 = 0x4000_0000

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16

ARCHITECTURES: Mapping[str, int] = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
"""The kernel's names of the machines that the filter knows."""

DENIED: Mapping[str, Sequence[int | None]] = {
    # other processes
    "fork": (57, None),
    "vfork": (58, None),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    # memory that the limit on address space does not see
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    # keys, and the kernel's own programs
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "fanotify_init": (300, 262),
    "vmsplice": (278, 75),
    # namespaces and file systems
    "unshare": (272, 97),
    "setns": (308, 268),
    "chroot": (161, 51),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # the machine
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "syslog": (103, 116),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "personality": (135, 92),
    "modify_ldt": (154, None),
    "iopl": (172, None),
    "ioperm": (173, None),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
}
"""System calls that are refused (EPERM), with their numbers on x86_64 and aarch64; None where there is none."""

_CLONE, _CLONE3, _SOCKET, _SOCKETPAIR = (56, 220), (435, 435), (41, 198), (53, 199)


def program(machine: str) -> bytes:
    """The filter for a machine, by the name that ``platform.machine()`` gives it.

    Threads may be started, processes may not: a bomb of forks has nothing to go off with.

    Raises:
        ValueError: for a machine whose system calls are not known here.
    """
    if machine not in ARCHITECTURES:
        raise ValueError(f"no system calls of {machine} are known here; there are: {', '.join(ARCHITECTURES)}")
    which = list(ARCHITECTURES).index(machine)
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, ARCHITECTURES[machine]),
        (_RETURN, 0, 0, KILL),
        (_LOAD, 0, 0, _NUMBER),
        # The numbers of x86_64's other interface; no call of aarch64 has one as high.
        (_AT_LEAST, 0, 1, X32),
        (_RETURN, 0, 0, ERRNO | ENOSYS),
        # What it would do stands in memory, where a filter cannot look; without it the C library takes clone.
        *_refuse(_CLONE3[which], ENOSYS),
    ]
    for numbers in DENIED.values():
        lines += _refuse(numbers[which], EPERM)
    lines += _only(_CLONE[which], _ANY_BIT, CLONE_THREAD)
    lines += _only(_SOCKET[which], _EQUAL, AF_UNIX)
    lines += _only(_SOCKETPAIR[which], _EQUAL, AF_UNIX)
    lines.append((_RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def _refuse(number: int | None, error: int) -> list[tuple[int, int, int, int]]:
    return [] if number is None else [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, ERRNO | error)]


def _only(number: int, test: int, value: int) -> list[tuple[int, int, int, int]]:
    """Allow a call where its first argument passes a test, and refuse it else."""
    return [
        (_EQUAL, 0, 4, number),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (test, 1, 0, value),
        (_RETURN, 0, 0, ERRNO | EPERM),
        (_RETURN, 0, 0, ALLOW),
    ]
