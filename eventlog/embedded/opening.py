"""Opening an LMDB environment: with which options, and why."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

import lmdb

from eventlog.errors import LogFullError, NotALogError

__all__ = ["MAX_MAP_BYTES", "MAX_READERS", "MIN_MAP_BYTES", "open_lmdb"]

MIN_MAP_BYTES: Final = 2**20
MAX_MAP_BYTES: Final = 2**46

MAX_READERS: Final = 4096
"""Slots in LMDB's table of readers, for all processes together."""

_LOCK_FILE_BYTES: Final = 128 + MAX_READERS * 64
"""What LMDB makes its lock file of: a header (``MDB_txninfo``) and 64 bytes a slot."""


def open_lmdb(path: Path, map_size: int, *, read_only: bool, synced: bool) -> lmdb.Environment:
    """Open one environment; with less address space than asked for where there is not as much.

    ``lib_version=0`` picks LMDB 0.9: py-lmdb carries LMDB 1.0 too, whose format differs.
    ``metasync=False``: a commit's meta page becomes durable with the next flush, whether that is
    the next commit's or one of its own; `eventlog.embedded.commit` acknowledges accordingly.
    """
    locked = not (read_only and _on_read_only_mount(path))
    if locked:
        _allocate_lock_file(path)
    while True:
        try:
            return lmdb.open(
                os.fspath(path),
                subdir=False,
                map_size=map_size,
                readonly=read_only,
                create=not read_only,
                lock=locked,
                metasync=False,
                sync=synced,
                mode=0o666,
                max_readers=MAX_READERS,
                max_spare_txns=0,
                lib_version=0,
            )
        except lmdb.MemoryError as error:
            if map_size // 2 < MIN_MAP_BYTES:
                raise OSError(
                    errno.ENOMEM, f"there is no address space to map the log ({error})", str(path)
                ) from error
            map_size //= 2
        except (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError) as error:
            raise NotALogError(f"{path} is no LMDB environment: {error}") from error
        except lmdb.ReadonlyError as error:
            raise PermissionError(
                errno.EACCES,
                "a log is only read by who may write its lock file, so that no writer reuses "
                "the pages under a reader",
                f"{path}-lock",
            ) from error


def _allocate_lock_file(path: Path) -> None:
    """Give LMDB's lock file its blocks now, while a full disk is an error.

    LMDB maps it, and a store into a page for which the disk has no room is a SIGBUS. This process
    must not have the environment open: closing the file drops the process's locks on it.
    """
    lock_file = f"{os.fspath(path)}-lock"
    try:
        descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        return  # LMDB says it better
    try:
        os.posix_fallocate(descriptor, 0, _LOCK_FILE_BYTES)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise LogFullError(f"the disk is full: {lock_file} needs room") from error
    finally:
        os.close(descriptor)


def _on_read_only_mount(path: Path) -> bool:
    """Whether nobody can write there: then no lock is needed, and none can be taken."""
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
