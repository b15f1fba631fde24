"""Waiting for what cannot be told to end: only for so long.

It is done in a thread, which is left alone when the time is over. What it does then comes to
nothing that anybody waits for.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from eventlog.blobs.remote import Late, LateUndone

__all__ = ["Aside"]

T = TypeVar("T")

_MOST_LEFT: Final = 16
"""Where nothing ever ends, there are not to be ever more threads."""


class Aside:
    """Does what may take too long. Thread-safe.

    Args:
        kind: what it does, for names of threads.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._left: list[threading.Thread] = []

    def run(self, do: Callable[[], T], seconds: float) -> T:
        """What `do` returns or raises.

        Raises:
            Late: it is not done within so many seconds.
            LateUndone: too many others are not done at all, so it was not begun.
        """
        done: queue.SimpleQueue[T] = queue.SimpleQueue()
        errors: list[BaseException] = []

        def run() -> None:
            try:
                done.put(do())
            except BaseException as error:  # noqa: BLE001 - raised by who waits
                errors.append(error)
                done.put(None)  # type: ignore[arg-type]

        thread = threading.Thread(target=run, name=f"eventlog-{self._kind}", daemon=True)
        self._refuse_more()
        thread.start()
        try:
            answer = done.get(timeout=max(seconds, 0))
        except queue.Empty:
            self._left.append(thread)
            raise Late("no answer in time") from None
        if errors:
            raise errors[0]
        return answer

    def _refuse_more(self) -> None:
        # Without a lock, which somebody might hold when the process forks: about so many is enough.
        for thread in list(self._left):
            if not thread.is_alive():
                with contextlib.suppress(ValueError):
                    self._left.remove(thread)
        if len(self._left) >= _MOST_LEFT:
            raise LateUndone(f"{_MOST_LEFT} requests before it have not even ended")
