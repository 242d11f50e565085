"""Turns of the calls that share a pipeline: one at a time, and a call that waits can be cancelled."""

from __future__ import annotations

import threading

from vcut_runtime.errors import Cancelled, UsageError

_LOOK_EVERY = 0.1  # seconds between two looks whether a waiting call was cancelled


class CancellableTurn:
    """A lock to use in a ``with``, which is waited for until it is free or ``cancel`` is set.

    Raises:
        Cancelled: ``cancel`` was set while the thread waited.
    """

    def __init__(self, lock: threading.RLock, cancel: threading.Event) -> None:  # pyright: ignore
        self._lock, self._cancel = lock, cancel

    def __enter__(self) -> None:
        while not self._lock.acquire(timeout=_LOOK_EVERY):
            check_cancelled(self._cancel)

    def __exit__(self, *exception: object) -> None:
        self._lock.release()


def check_event(cancel: object) -> None:
    """Check what a caller gave to cancel a call.

    Raises:
        UsageError: it is no event.
    """
    if cancel is not None and not hasattr(cancel, "is_set"):
        raise UsageError(f"cancel is of type {type(cancel).__name__}: give a threading.Event")


def check_cancelled(cancel: threading.Event | None) -> None:
    """End a call whose caller has cancelled it.

    Raises:
        Cancelled: ``cancel`` is set.
    """
    if cancel is not None and cancel.is_set():
        raise Cancelled("the video was cancelled by its caller")
