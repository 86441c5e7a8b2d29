"""The process in which rewards run. It may be killed at any time; nothing it imports may be heavy."""

from __future__ import annotations

import json
import logging
import pickle
import resource
import sys
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from r1lit.rewards import process
from r1lit.rewards.judge import Judge, Verdict, columns_of

MEBIBYTE = 1 << 20


def main(descriptor: int) -> None:
    """Load the rewards that the parent names, then judge what it sends, until it closes the socket.

    Messages out are JSON: first one a reward, ``{"loaded": name, "error": text or null}``, then a verdict a unit.
    """
    process.die_with_parent()
    connection = process.connection_to_parent(descriptor)
    # A reward that logs a warning for each row would drown the run's own output.
    logging.basicConfig(level=logging.ERROR)
    try:
        setup = pickle.loads(connection.recv_bytes())
        sys.path.extend(setup["paths"])
        judges = {name: _load(connection, name, spec, setup["paths"]) for name, spec in setup["rewards"].items()}
        limits = _limits({name: spec["memory_mb"] for name, spec in setup["rewards"].items()})
        while True:
            _answer(connection, judges, limits, *pickle.loads(connection.recv_bytes()))
    except (EOFError, OSError):
        return


def _load(connection: Connection, name: str, spec: dict[str, Any], paths: list[str]) -> Judge | None:
    judge, problem = None, None
    try:
        judge = Judge(spec, paths)
    except (Exception, SystemExit) as error:
        problem = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    connection.send_bytes(json.dumps({"loaded": name, "error": problem}).encode())
    return judge


def _answer(
    connection: Connection, judges: dict[str, Judge], limits: dict[str, tuple[int, int]], payload: bytes, units: list
) -> None:
    columns = columns_of(pickle.loads(payload))
    for name, rows in units:
        if name in limits:
            resource.setrlimit(resource.RLIMIT_AS, limits[name])
        verdict = judges[name](columns, rows)
        connection.send_bytes(json.dumps(asdict(verdict)).encode())


def _limits(memory_mb: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Soft and hard limit on the bytes of address space, by reward: what the loaded process occupies, and the
    reward's own allowance on top, since torch alone reserves gigabytes that it never touches.
    None where the system does not tell what is occupied."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return {}
    occupied = int(statm.read_text().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    ceiling = hard if hard != resource.RLIM_INFINITY else sys.maxsize
    return {name: (min(occupied + allowance * MEBIBYTE, ceiling), hard) for name, allowance in memory_mb.items()}


def verdict_of(message: bytes) -> Verdict:
    """Read a verdict as the worker sent it."""
    fields = json.loads(message)
    return Verdict(fields["values"], {int(row): why for row, why in fields["reasons"].items()}, fields["message"])
