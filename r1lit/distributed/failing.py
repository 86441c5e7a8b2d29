"""What ends one process ends all, for the same reason."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from r1lit.distributed.launch import join, launched
from r1lit.settings import UserError

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


def _said(store) -> str:
    with suppress(RuntimeError):
        if store.check([_FAILED]):
            return store.get(_FAILED).decode()
    return ""
