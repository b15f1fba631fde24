"""A lock that the kernel releases when its holder dies, whatever it dies of.

Each member of a group holds one on a file of its own name, in a directory that all hosts of the
group share (`BlobStore.shared_directory`). Who finds the file there and not locked knows at once
what it would otherwise learn when the lease has run out.

Invariants:

1. A file is locked before anybody is told its member's name, so one that is not locked belongs to
   a member that is over. No file, or any error, says nothing.
2. Only its own process holds a member's lock: the file is opened for it alone, a program that is
   started does not inherit it, and a forked child closes its copy. So the lock goes with the
   process, or with `Lifeline.close`, also between hosts of one process.

A stopped process keeps its lock, and so does one that hangs: for them there is the lease.

What this module deliberately does not do: decide anything by the time. Files of members that are
over are left for all to see, and swept away by later members, an hour or more after somebody has
noticed; that hour is all that a clock is asked for.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import weakref
from pathlib import Path
from typing import Final

from eventlog.blobs.store import is_name
from eventlog.errors import InvalidNameError

__all__ = ["Lifeline", "is_dead"]

_SUFFIX: Final = ".lock"
_KEPT_SECONDS: Final = 3600.0
_NOTICED: Final = b"over\n"
"""What is written into the file of a member that was found to be over."""


class Lifeline:
    """Shows that a member is alive, from now on until `close`, or the end of the process.

    Args:
        directory: where the hosts have their files; it is made if it is not there.
        member: the host's name, with its incarnation: no two members ever have the same.

    Raises:
        InvalidNameError: no file can have that name.
        OSError: the file cannot be made, or not be locked.
    """

    def __init__(self, directory: Path, member: str) -> None:
        self._path = _path(directory, member)
        directory.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        _alive.add(self)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            os.ftruncate(self._file, 0)  # who came between the two lines above has noticed nothing
        except BaseException:
            self.close()
            raise
        _sweep(directory)

    def __repr__(self) -> str:
        return f"<Lifeline {self._path}>"

    def close(self) -> None:
        """The member is over: let others find that. Closing twice is fine."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


def is_dead(directory: Path, member: str) -> bool:
    """Whether it is sure that a member is over. False may mean anything."""
    try:
        return _noticed_at(_path(directory, member)) is not None
    except (OSError, InvalidNameError):
        return False


def _path(directory: Path, member: str) -> Path:
    name = f"{member}{_SUFFIX}"
    if "/" in name or not is_name(name):
        raise InvalidNameError(f"{member!r:.300} cannot name a host: no file can have that name")
    return directory / name


def _noticed_at(path: Path) -> float | None:
    """Since when it is known that nobody holds the lock on a file; None if somebody does.

    Those who look do not keep each other from looking.

    Raises:
        OSError: there is no such file, or it cannot be looked at.
    """
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        if not os.fstat(file).st_size:
            os.write(file, _NOTICED)
        return os.fstat(file).st_mtime
    finally:
        os.close(file)


def _sweep(directory: Path) -> None:
    """Remove what was noticed long ago; what was not is noticed now."""
    for path in directory.glob(f"*{_SUFFIX}"):
        with contextlib.suppress(OSError):
            noticed_at = _noticed_at(path)
            if noticed_at is not None and time.time() - noticed_at > _KEPT_SECONDS:
                path.unlink()


_alive: weakref.WeakSet[Lifeline] = weakref.WeakSet()


def _let_go_in_child() -> None:
    """The child's copies keep the locks too. To close them does not unlock anything."""
    for lifeline in list(_alive):
        lifeline.close()


os.register_at_fork(after_in_child=_let_go_in_child)
