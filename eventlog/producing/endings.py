"""What producers do when the process forks, and when it ends."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from typing import Protocol

__all__ = ["add", "watch_worker"]


class _Ending(Protocol):
    def start_empty_in_child(self) -> None:
        """The process is a child that was just forked."""

    def close_at_exit(self) -> None:
        """The process ends."""


_mutex = threading.Lock()
_there: weakref.WeakSet[_Ending] = weakref.WeakSet()
_process_id = -1


def add(one: _Ending) -> None:
    """From now on `one` hears of forks and of the end."""
    with _mutex:
        _there.add(one)


def _all() -> list[_Ending]:
    with _mutex:
        return list(_there)


def watch_worker() -> None:
    """In a process of multiprocessing's: hear of its end, where `atexit` does not."""
    global _process_id  # noqa: PLW0603 - once in each process
    util = sys.modules.get("multiprocessing.util")
    process = sys.modules.get("multiprocessing.process")
    if _process_id == os.getpid():
        return
    _process_id = os.getpid()
    if util is not None and process is not None and process.parent_process() is not None:
        util.Finalize(None, _close_all, exitpriority=100)


def _in_child() -> None:
    global _mutex  # noqa: PLW0603 - its copy may be held by a thread of the parent's
    _mutex = threading.Lock()
    for one in _all():
        one.start_empty_in_child()


os.register_at_fork(after_in_child=_in_child)


@atexit.register
def _close_all() -> None:
    """What was accepted is stored first, or its failure is logged."""
    for one in _all():
        one.close_at_exit()
