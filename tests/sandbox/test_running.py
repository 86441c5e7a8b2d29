"""Programs that mean harm, in the real sandbox. Without bubblewrap these tests fail: nothing else shows that it holds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from r1lit.sandbox import bubblewrap
from r1lit.sandbox.bubblewrap import SandboxError
from r1lit.sandbox.running import run
from r1lit.sandbox.watch import Limits

BOTH = pytest.mark.parametrize("sandbox", ["bubblewrap", "none_unsafe"])


def living(marker: str) -> list[str]:
    """Processes of this machine whose command line holds a text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if marker.encode() in line:
            found.append(path.parent.name)
    return found


def gone(marker: str) -> bool:
    until = time.monotonic() + 5
    while living(marker) and time.monotonic() < until:
        time.sleep(0.02)
    return not living(marker)


@BOTH
def test_a_program_reads_its_input_and_prints(sandbox):
    done = run("print(sum(int(line) for line in sys.stdin))", "1\n2\n3\n", sandbox=sandbox)
    assert (done.ending, done.returncode, done.stdout, done.stderr) == ("exited", 0, "6\n", "")
    assert done.succeeded and 0 < done.seconds < 6


@BOTH
@pytest.mark.parametrize(
    "source",
    [
        "class Solution:\n    def add(self, items: List[int], more: Optional[int]):\n        return sum(items) + more",
        "def add(items, more):\n    print('working')\n    return sum(items) + more",
        "def add(items, more): return sum(items) + more\nif __name__ == '__main__': print(input())",
    ],
)
def test_a_function_is_called(sandbox, source):
    done = run(source, "[1, 2]\n4", function="add", sandbox=sandbox)
    assert (done.stdout, done.succeeded) == ("7", True), done.stderr


@BOTH
@pytest.mark.parametrize(
    ("source", "code", "said"),
    [
        ("1 / 0", 1, "ZeroDivisionError"),
        ("def f(:", 1, "SyntaxError"),
        ("sys.exit(3)", 3, ""),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", 128 + signal.SIGSEGV, ""),
        ("import os\nos._exit(0)", 0, ""),
    ],
)
def test_how_it_ended_is_told(sandbox, source, code, said):
    done = run(source, sandbox=sandbox)
    assert (done.ending, done.returncode) == ("exited", code)
    assert said in done.stderr
    assert done.succeeded == (code == 0)


@BOTH
def test_programs_find_the_usual_names(sandbox):
    source = """
from __future__ import annotations
from dataclasses import dataclass
@dataclass
class Point:
    x: int
def depth(n): return n and 1 + depth(n - 1)
print(Counter("aab")["a"], gcd(4, 6), heapq.heappop([3]), bisect.bisect([1, 2], 1), Point(1), depth(20_000))
t = __import__("threading").Thread(target=lambda: print(List, __name__)); t.start(); t.join()
"""
    done = run(source, sandbox=sandbox)
    assert done.stdout == "2 2 3 1 Point(x=1) 20000\ntyping.List __main__\n", done.stderr


@BOTH
def test_what_never_ends_is_ended(sandbox):
    for source in ("while True: pass", "import time\ntime.sleep(60)", "input()\nwhile True: pass"):
        start = time.monotonic()
        done = run(source, "x\n", Limits(seconds=0.5, memory_mb=771), sandbox=sandbox)
        assert done.ending == "timeout" and not done.succeeded
        assert 0.5 <= done.seconds < 5 and time.monotonic() - start < 10
    assert gone(str(771 << 20))


@BOTH
def test_closed_streams_do_not_hide_a_program(sandbox):
    source = "import os\nfor stream in (0, 1, 2): os.close(stream)\nwhile True: pass"
    assert run(source, limits=Limits(seconds=0.5), sandbox=sandbox).ending == "timeout"
    source = "import os, time\nos.close(1)\nos.close(2)\ntime.sleep(0.2)\nos._exit(4)"
    assert run(source, sandbox=sandbox).returncode == 4


@BOTH
def test_memory_is_bounded(sandbox):
    for source in ("bytearray(1 << 30)", "x = []\nwhile True: x.append('x' * 1_000_000)", "x = 'x' * (1 << 40)"):
        done = run(source, limits=Limits(memory_mb=300), sandbox=sandbox)
        assert done.ending == "exited" and done.returncode == 1
        assert "MemoryError" in done.stderr


@BOTH
def test_output_is_bounded(sandbox):
    done = run("while True: print('x' * 1000)", limits=Limits(output_bytes=1 << 20), sandbox=sandbox)
    assert done.ending == "output" and not done.succeeded
    assert 1 << 20 < len(done.stdout) < 2 << 20
    done = run("sys.stderr.write('x' * 1_000_000 + 'end')", sandbox=sandbox)
    assert done.succeeded and len(done.stderr) == 4096 and done.stderr.endswith("xend")


@BOTH
def test_much_input_may_be_read_or_not(sandbox):
    assert run("print(len(sys.stdin.read()))", "x" * 5_000_000, sandbox=sandbox).stdout == "5000000\n"
    assert run("print('done')", "x" * 5_000_000, sandbox=sandbox).succeeded
    assert run("print(input())", "十\ud800", sandbox=sandbox).stdout == "十?\n"


def test_there_is_no_network():
    for family in ("AF_INET", "AF_INET6", "AF_NETLINK", "AF_VSOCK"):
        done = run(f"import socket\nsocket.socket(socket.{family}, socket.SOCK_DGRAM)")
        assert "PermissionError" in done.stderr, (family, done.stderr)
    source = "print([line.split(':')[0].strip() for line in open('/proc/net/dev')][2:])"
    assert run(source).stdout == "['lo']\n"


def test_nothing_can_be_written_but_a_small_tmp(tmp_path):
    places = ["/x", "/usr/x", "/dev/x", "/dev/shm/x", "/sandbox/program.py", "/proc/sys/kernel/hostname", "/proc/x"]
    places += [f"{sys.prefix}/x", f"{sys.base_prefix}/x"]
    source = f"""
for place in {places!r}:
    try:
        open(place, "w").write("x")
        print(place)
    except OSError:
        pass
open("/tmp/x", "w").write("x")
print(open("/tmp/x").read())
"""
    assert run(source).stdout == "x\n"
    done = run("for n in range(1000): open(f'/tmp/{n}', 'wb').write(bytes(1 << 20)) and print(n)")
    assert "No space left" in done.stderr and len(done.stdout.splitlines()) <= 64
    done = run("open('/tmp/x', 'wb').write(bytes(2 << 20))", limits=Limits(file_mb=1))
    assert "File too large" in done.stderr
    assert list(tmp_path.iterdir()) == [] and not Path("/tmp/x").exists()


def test_the_kernels_settings_cannot_be_changed():
    """Not even where the tests run as root, to whom they belong: one of them names a program that root then runs."""
    source = """
import os
def opens(path):
    try:
        os.close(os.open(path, os.O_WRONLY))
    except OSError:
        return False
    return True
paths = [os.path.join(folder, name) for folder, _, names in os.walk("/proc/sys") for name in names]
print(len(paths) > 100, [path for path in paths if opens(path)], opens("/proc/1/mem"), opens("/proc/self/mem"))
"""
    assert run(source).stdout == "True [] False False\n"


def test_nothing_of_the_machine_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setenv("R1LIT_SECRET", "hunter2")
    (tmp_path / "secret").write_text("hunter2")
    source = f"""
import os, pathlib
for place in [{str(tmp_path / "secret")!r}, {str(Path(__file__))!r}, "/etc/passwd", "/etc/hostname", "/root/.bashrc"]:
    print(pathlib.Path(place).exists())
for path in pathlib.Path("/proc").glob("[0-9]*"):
    for name in ("environ", "cmdline"):
        print("hunter2" in (path / name).read_text(errors="replace"))
print(pathlib.Path("/proc/1/environ").read_bytes(), sorted(os.environ), os.getuid(), os.uname().nodename)
print(len(list(pathlib.Path("/proc").glob("[0-9]*"))))
"""
    *found, last, processes = run(source).stdout.splitlines()
    assert set(found) == {"False"}
    assert last == f"b'' {sorted([*bubblewrap.ENVIRONMENT, 'PWD'])} 65534 sandbox"
    assert processes == "2"


@pytest.mark.parametrize(
    "source",
    [
        "while True: os.fork()",
        "while True: os.posix_spawn('/usr/bin/true', ['true'], {})",
        "import subprocess\nwhile True: subprocess.Popen([sys.executable, '-c', 'pass'])",
        "import multiprocessing\nmultiprocessing.Process(target=print).start()",
    ],
)
def test_there_are_no_bombs_of_processes(source):
    done = run(f"import os\n{source}", limits=Limits(memory_mb=772))
    assert done.ending == "exited" and "PermissionError" in done.stderr, done
    assert gone(str(772 << 20))


def test_threads_are_bounded():
    source = """
import threading
threading.stack_size(1 << 16)
for number in range(100_000):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
"""
    done = run(f"import time\n{source}", limits=Limits(seconds=3, memory_mb=300))
    assert not done.succeeded


def test_the_kernels_doors_are_closed():
    source = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
calls = [
    ("unshare", 0x10000000), ("ptrace", 0, 0, 0, 0), ("mount", b"a", b"/tmp", b"tmpfs", 0, 0),
    ("memfd_create", b"x", 0), ("shmget", 0, 4096, 0o1600), ("personality", 8),
]
for name, *arguments in calls:
    print(getattr(libc, name)(*arguments), ctypes.get_errno())
"""
    assert run(source).stdout.splitlines() == ["-1 1"] * 6


def test_killing_what_there_is_to_kill_harms_nobody():
    source = """
import os
for pid in (1, os.getppid(), -1):
    try:
        os.kill(pid, 9)
    except OSError:
        pass
"""
    assert run(source).ending == "exited"
    assert run("print(1)").succeeded


def test_a_program_dies_with_those_who_wait_for_it():
    waits = (
        "from r1lit.sandbox.running import run; from r1lit.sandbox.watch import Limits\n"
        "run('while True: pass', limits=Limits(seconds=60, memory_mb=773))"
    )
    waiting = subprocess.Popen([sys.executable, "-c", waits])
    until = time.monotonic() + 20
    while len(living(str(773 << 20))) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    assert living(str(773 << 20))
    waiting.kill()
    waiting.wait()
    assert gone(str(773 << 20))


def test_without_bubblewrap_nothing_is_run(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxError, match=r"no bwrap on PATH; install bubblewrap \(Debian, Ubuntu: apt install"):
        run("open('/tmp/should-not-be', 'w')")
    assert not Path("/tmp/should-not-be").exists()


def test_a_sandbox_that_does_not_start_is_no_fault_of_the_program(monkeypatch, tmp_path):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SandboxError, match="it ended before the program began; it said: bwrap: No permissions"):
        run("print(1)")


def test_a_program_cannot_pass_for_a_sandbox_that_failed():
    done = run("import os\nos.write(2, b'bwrap: No permissions to create new namespace')\nos._exit(1)")
    assert (done.ending, done.returncode) == ("exited", 1)


def test_machines_whose_calls_are_unknown_are_refused(monkeypatch):
    bubblewrap._filter.cache_clear()
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(SandboxError, match="no system calls of riscv64 are known here"):
        run("print(1)")
    assert run("print(1)", sandbox="none_unsafe").succeeded
    bubblewrap._filter.cache_clear()


@pytest.mark.parametrize("name", ["none", "bubblewrapp", ""])
def test_going_without_takes_the_word_unsafe(name):
    with pytest.raises(SandboxError, match=r"does not exist; (there are: bubblewrap, none_unsafe|did you mean)"):
        run("print(1)", sandbox=name)
