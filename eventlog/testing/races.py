"""Several at a time at one store: processes or threads that race, and one that keeps writing."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Final, TypeAlias, TypeVar

from eventlog.blobs import Blob, BlobStore
from eventlog.errors import PreconditionFailedError

__all__ = ["CONTESTED", "RACERS", "Opener", "create_and_delete", "increment", "race", "writing"]

T = TypeVar("T")

Opener: TypeAlias = Callable[[], AbstractContextManager[BlobStore]]
"""Opens the same store again, in whatever process it is called in; can be pickled."""

RACERS: Final = 8
CONTESTED: Final = [f"blob-{number}" for number in range(20)]
"""What `create_and_delete` tries to create and to delete."""

_PATIENCE: Final = 120.0  # seconds that starting processes may take

_start: Any = None
"""What the racers in one process meet at."""


def race(store: BlobStore, opener: Opener | None, work: Callable[[BlobStore, int], T]) -> list[T]:
    """Have eight do `work` at the same time: processes, or threads if there is no `opener`.

    Returns: what came of it, by the racers' numbers.
    """
    if opener is None:
        start = threading.Barrier(RACERS)
        take_part = functools.partial(
            _take_part, start.wait, lambda: contextlib.nullcontext(store), work
        )
        with ThreadPoolExecutor(RACERS) as threads:
            return list(threads.map(take_part, range(RACERS)))
    context = multiprocessing.get_context("spawn")
    meeting = (context.Barrier(RACERS),)
    take_part = functools.partial(_take_part, _meet, opener, work)
    with ProcessPoolExecutor(RACERS, context, _meet_at, meeting) as processes:
        return list(processes.map(take_part, range(RACERS)))


def _meet_at(start: Any) -> None:
    global _start  # noqa: PLW0603 - only who starts a process can hand it a barrier
    _start = start


def _meet(timeout: float) -> None:
    _start.wait(timeout)


def _take_part(
    meet: Callable[[float], object],
    opener: Opener,
    work: Callable[[BlobStore, int], T],
    number: int,
) -> T:
    with opener() as store:
        meet(_PATIENCE)
        return work(store, number)


def increment(store: BlobStore, number: int, *, times: int) -> None:  # noqa: ARG001 - a racer's
    """Add 1 to a counter, again and again."""
    for _ in range(times):
        while not _swap(store):
            pass


def _swap(store: BlobStore) -> bool:
    blob = store.get("counter")
    try:
        if isinstance(blob, Blob):
            store.put("counter", b"%d" % (int(blob.data) + 1), if_match=blob.etag)
        else:
            store.put("counter", b"1", if_absent=True)
    except PreconditionFailedError:
        return False
    return True


def create_and_delete(store: BlobStore, number: int) -> tuple[list[str], list[str]]:
    """Try to create and to delete each of some blobs; which ones it could."""
    doomed = dict(store.list("doomed/"))
    created, deleted = [], []
    for name in CONTESTED:
        with contextlib.suppress(PreconditionFailedError):
            store.put(f"new/{name}", b"%d" % number, if_absent=True)
            created.append(name)
        with contextlib.suppress(PreconditionFailedError):
            store.delete(f"doomed/{name}", if_match=doomed.get(f"doomed/{name}", "gone"))
            deleted.append(name)
    return created, deleted


@contextlib.contextmanager
def writing(write: Callable[[int], object]) -> Iterator[None]:
    """Meanwhile, call `write` with 1, 2 and on, in another thread."""
    stopped = threading.Event()

    def keep_writing() -> None:
        number = 1
        while not stopped.is_set():
            write(number)
            number += 1

    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(keep_writing)
        try:
            yield
        finally:
            stopped.set()
        writing.result()
