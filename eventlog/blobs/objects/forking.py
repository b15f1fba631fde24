"""Keeps obstore out of forked processes.

Its runtime has threads and an epoll descriptor. A child has none of these threads, and shares the
descriptor with its parent: what it registers there, the parent is told of, as addresses in memory
that it has not. The child hangs and the parent dies of a segmentation fault. So from its first use
on, obstore belongs to one process; to fork before that, or to spawn, is fine.
"""

from __future__ import annotations

import os
import threading

from eventlog.errors import UnsupportedOperationError

__all__ = ["claim", "refuse"]

_LOCK = threading.Lock()
_users: list[int] = []
"""The process that uses obstore. A child has this list too, and is another."""


def claim() -> None:
    """This process is about to use obstore.

    Raises:
        UnsupportedOperationError: the one that it was forked from has.
    """
    with _LOCK:
        if not _users:
            _users.append(os.getpid())
    if _users[0] != os.getpid():
        raise refuse()


def refuse() -> UnsupportedOperationError:
    """What a forked process is told."""
    return UnsupportedOperationError(
        "this process was forked from one that used an object store, and cannot use any itself: "
        "start it with the method 'spawn' or 'forkserver', or open no object store before forking"
    )
