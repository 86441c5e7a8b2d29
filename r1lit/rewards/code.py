"""The code reward: does the program of the answer pass its tests? It runs in a sandbox (arXiv 2501.12948, 2.2.2)."""

from __future__ import annotations

from itertools import repeat
from typing import Any

from r1lit.rewards.code_tests import Suite, suite_of
from r1lit.sandbox.bubblewrap import SandboxError
from r1lit.sandbox.running import run
from r1lit.sandbox.watch import Limits
from r1lit.text.thinking import split

LANGUAGES = ("python", "python3", "py", "")
"""What a block of code may call its language."""


class Code:
    """1.0 where the last block of Python in the answer passes every test of its row, 0.0 where it fails one or there is
    none; a row without tests is not judged.

    Args:
        sandbox: ``bubblewrap``, or ``none_unsafe``: limits alone, while the program can reach whatever you can.
        seconds: a test may take.
        program_mb: MiB of memory a program may take.
        partial: pay the share of tests that are passed, instead of all or nothing.

    Raises:
        ValueError: where programs cannot be run here, with the remedy.
    """

    def __init__(
        self, sandbox: str = "bubblewrap", seconds: float = 6.0, program_mb: int = 1024, partial: bool = False
    ):
        self._sandbox, self._partial = sandbox, partial
        self._limits = Limits(seconds=seconds, memory_mb=program_mb)
        try:
            tried = run("print(6 * 7)", limits=Limits(memory_mb=program_mb), sandbox=sandbox)
        except SandboxError as error:
            raise ValueError(str(error)) from error
        if tried.stdout != "42\n":
            raise ValueError(f"the sandbox cannot run a program: {tried}; raise program_mb={program_mb}")

    def __call__(
        self,
        completions: list[str],
        tests: list[Any] | None = None,
        public_test_cases: list[str | None] | None = None,
        private_test_cases: list[str | None] | None = None,
        metadata: list[Any] | None = None,
        answers: list[str | None] | None = None,
    ) -> list[float | None]:
        """Judge N completions by their rows' tests, which `code_tests.suite_of` reads."""
        finals = [split(text).answer for text in completions] if answers is None else answers
        columns = (tests, public_test_cases, private_test_cases, metadata)
        rows = zip(finals, *(column or repeat(None) for column in columns), strict=False)
        return [self._judge(final, suite_of(*told)) for final, *told in rows]

    def _judge(self, final: str | None, tests: Suite | None) -> float | None:
        if tests is None:
            return None
        program = last_program(final or "")
        if program is None:
            return 0.0
        passed = 0
        for given, wanted in tests.cases:
            done = run(program, given, self._limits, tests.function, self._sandbox)
            if done.succeeded and tests.passed(done.stdout, wanted):
                passed += 1
            elif not self._partial:
                return 0.0
        return passed / len(tests.cases)


def last_program(text: str) -> str | None:
    """The last block of Python between fences; None where there is none that is closed.

    >>> last_program("First:\\n```python\\nx = 1\\n```\\nor better\\n```python\\nx = 2\\n```\\nDone.")
    'x = 2'
    """
    found, opened, lines = None, None, text.split("\n")
    for number, line in enumerate(lines):
        if not line.lstrip().startswith("```"):
            continue
        label = line.strip().strip("`").strip().lower()
        if opened is None or label:
            opened = (number, label)
        else:
            if opened[1] in LANGUAGES:
                found = "\n".join(lines[opened[0] + 1 : number])
            opened = None
    return found
