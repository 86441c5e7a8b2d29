"""What ends one process ends all, for the same reason."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

from r1lit.distributed.launch import first_to_say, join, launched
from r1lit.settings import SIGNALLED, UserError

if TYPE_CHECKING:
    # torch takes seconds to load.
    from r1lit.distributed.ranks import Ranks

PATIENCE_SECONDS = 5.0
"""How long a process whose peers are gone waits for their last words."""

_FAILED = "failed"


class PeerError(UserError):
    """Another process of the run has failed."""


def from_first(key: str, make: Callable[[], str]) -> str:
    """What the first process makes, in all of them; it tells the others under ``key``.

    Raises:
        PeerError: in the others, where the first could not make it.
    """
    store, launch = join(), launched()
    if store is None:
        return make()
    made = ""
    if launch.first:
        try:
            made = make()
        finally:
            store.set(key, made)
            if not made:
                # With this process goes what it has said.
                _wait_until(lambda: store.add(f"{key}/heard", 0) == launch.size - 1)
        return made
    with suppress(RuntimeError):
        made = store.get(key).decode()
        store.add(f"{key}/heard", 1)
    if not made:
        raise PeerError("stopped, because process 0 could not begin")
    return made


def together() -> None:
    """Wait until every process has come so far.

    Raises:
        PeerError: where another one has ended before.
    """
    if (store := join()) is None:
        return
    from torch import distributed

    try:
        distributed.barrier()
    except RuntimeError as error:
        said = _said(store) or "? it ended before the run began"
        raise PeerError(_stopped(said)) from error


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
                _wait_until(lambda: store.check([_FAILED]))
            if not isinstance(error, PeerError):
                leave_word(str(error) or type(error).__name__)
        said = _said(store)
        if said and not isinstance(error, UserError) and not said.startswith(f"{launched().rank} "):
            raise PeerError(_stopped(said)) from error
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
    require_all(failures(ranks, error), error)


def failure(error: Exception | None) -> str | None:
    """What the other processes are told of an error."""
    return None if error is None else str(error) or type(error).__name__


def failures(ranks: Ranks, own: Exception | None) -> list[str | None]:
    """What has failed in each process; ``own`` is raised where the others have gone."""
    try:
        return ranks.gather(failure(own))
    except RuntimeError:
        if own is not None:
            raise own from None
        raise


def require_all(failures: Sequence[str | None], own: Exception | None = None) -> None:
    """Fail where one process did: with this one's ``own`` error, if it has one.

    Raises:
        PeerError: with what another process has said.
    """
    if own is not None:
        raise own
    for rank, reason in enumerate(failures):
        if reason is not None:
            raise PeerError(_stopped(f"{rank} {reason}"))


def leave_with(error: UserError, logged: bool = True) -> NoReturn:
    """End this process with what a user is told, said once by all processes; ``logged`` puts it into the log too."""
    text = str(error)
    if isinstance(error, PeerError):
        # It has been said in full by the one that it happened to.
        text = text if len(text) <= LONGEST_REPEATED else f"{text[:LONGEST_REPEATED]} ..."
    else:
        leave_word(text)
    if first_to_say(text):
        print(f"r1lit: {text}", file=sys.stderr, flush=True)
    if logged:
        logging.getLogger("r1lit").info("%s: %s", type(error).__name__, error)
    if error.exit_code > SIGNALLED and os.environ.get("WANDB_SWEEP_ID"):
        # An agent of W&B takes an exit code for a failure and gives up after five; a run that it stopped is none.
        signal.signal(error.exit_code - SIGNALLED, signal.SIG_DFL)
        os.kill(os.getpid(), error.exit_code - SIGNALLED)
    sys.exit(error.exit_code)


def leave_word(text: str) -> None:
    """Tell the other processes, where there are any, why this one ends, unless another has told why before."""
    with suppress(RuntimeError):
        store = join()
        if store is not None and not store.check([_FAILED]):
            store.compare_set(_FAILED, "", f"{launched().rank} {text}")


def _stopped(said: str) -> str:
    rank, _, reason = said.partition(" ")
    return f"stopped, because process {rank} did: {' '.join(reason.split())}"


LONGEST_REPEATED = 350
"""Characters that are shown of what another process has said; the log and the summary have all of it."""


def _wait_until(holds: Callable[[], bool]) -> None:
    """Or until patience ends."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)


def _said(store) -> str:
    with suppress(RuntimeError):
        if store.check([_FAILED]):
            return store.get(_FAILED).decode()
    return ""
