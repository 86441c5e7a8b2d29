"""What runs inside the sandbox: sets the limits, says that it has come so far, and runs the program.

It is copied in and run by itself, so it imports nothing of r1lit. What the program does to it changes nothing: the
expected outputs are outside, and so is the comparison.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from types import ModuleType

NAMES = [
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json", "typing", "builtins"),
]
"""Modules whose names a program finds there, as judges of contests give them: all they export, then themselves."""

RECURSION = DIGITS = 50_000


def main(descriptor: int, limits: dict[str, int], path: str, function: str | None) -> None:
    """Run a program's file; with ``function`` call it, with the lines of the standard input as JSON arguments, and
    print what it returns as JSON. The descriptor hears a byte before anything of the program runs."""
    # A function's file is a module: what it would do as a program is not asked for.
    module = ModuleType("__main__" if function is None else "solution")
    exec("".join(f"from {name} import *\n" for name in NAMES), vars(module))
    exec("".join(f"import {name}\n" for name in NAMES if name != "builtins"), vars(module))
    sys.modules[module.__name__] = module
    sys.setrecursionlimit(RECURSION)
    sys.set_int_max_str_digits(DIGITS)
    with open(path, encoding="utf-8") as file:
        source = file.read()
    for name, value in limits.items():
        _limit(getattr(resource, name), value)
    os.write(descriptor, b"1")
    os.close(descriptor)
    if function is None:
        exec(compile(source, "program.py", "exec", dont_inherit=True), vars(module))
    else:
        call(source, module, function)


def call(source: str, module: ModuleType, function: str) -> None:
    """Call a function, or a method of the class Solution; what else it prints goes to the standard error."""
    arguments = [json.loads(line) for line in sys.stdin.read().split("\n")]
    result, sys.stdout = sys.stdout, sys.stderr
    exec(compile(source, "program.py", "exec", dont_inherit=True), vars(module))
    owner = module.Solution() if hasattr(module, "Solution") else module
    result.write(json.dumps(getattr(owner, function)(*arguments)))
    result.flush()


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3], sys.argv[4] if len(sys.argv) > 4 else None)
