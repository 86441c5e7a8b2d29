"""What ends one process ends all, for the same reason."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from r1lit.distributed.launch import join, launched
from r1lit.settings import UserError

if TYPE_CHECKING:
    # torch takes seconds to load.
    from r1lit.distributed.ranks import Ranks

PATIENCE_SECONDS = 5.0
"""How long a process whose peers are gone waits for their last words."""

_FAILED = "failed"


class PeerError(UserError):
    """Another process of the run has failed."""


@contextmanager
def one_for_all() -> Iterator[None]:
    """Leave a word for the other processes where what runs inside fails; they lose the connection, and say why.

    Raises:
        PeerError: in place of an error of the connection, with what another process has said.
    """
    try:
        yield
    except BaseException as error:
        store = join()
        if store is None:
            raise
        with suppress(RuntimeError):
            if isinstance(error, RuntimeError) and not isinstance(error, UserError):
                deadline = time.monotonic() + PATIENCE_SECONDS
                while not store.check([_FAILED]) and time.monotonic() < deadline:
                    time.sleep(0.05)
            if not store.check([_FAILED]):
                own = str(error) or type(error).__name__
                store.compare_set(_FAILED, "", f"{launched().rank} {own}")
        said = _said(store)
        if said and not isinstance(error, UserError) and not said.startswith(f"{launched().rank} "):
            rank, _, reason = said.partition(" ")
            raise PeerError(f"stopped, because process {rank} did: {reason}") from error
        raise


@contextmanager
def all_or_none(ranks: Ranks) -> Iterator[None]:
    """What runs inside is each process's own; where it fails in one, it fails in all, once all are through.

    Raises:
        PeerError: with what another process has said.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    require_all(ranks.gather(failure(error)), error)


def failure(error: Exception | None) -> str | None:
    """What the other processes are told of an error."""
    return None if error is None else str(error) or type(error).__name__


def require_all(failures: Sequence[str | None], own: Exception | None = None) -> None:
    """Fail where one process did: with this one's ``own`` error, if it has one.

    Raises:
        PeerError: with what another process has said.
    """
    if own is not None:
        raise own
    for rank, reason in enumerate(failures):
        if reason is not None:
            raise PeerError(f"stopped, because process {rank} did: {reason}")


def _said(store) -> str:
    with suppress(RuntimeError):
        if store.check([_FAILED]):
            return store.get(_FAILED).decode()
    return ""
