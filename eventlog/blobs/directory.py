"""A store of plain files, for several processes on one machine.

The blob ``groups/x/group.json`` is the file ``DIR/groups/x/group.json``, for a person to read, and
to edit. Who puts, or deletes, holds the lock on DIR (`eventlog.blobs.directory_lock`) alone; who
lists holds it together with other listers; who gets holds nothing.

A put writes ``DIR/.new-blob``, makes it durable, and gives it the blob's name by a rename, so a
blob's file is never seen, or left by a crash, half written. There is one lock, so there is one
such file at most: what a killed writer left is removed by the next one. Names of blobs have no
part that begins with a dot, so no list shows it, nor ``DIR/.hosts``, where hosts keep their locks.

Invariants:

1. An *etag* is a file's time of modification, in nanoseconds, and its size. Every put sets a time
   that is later than that of the version it replaces, and an edit by hand sets one too. So nothing
   is stored beside the data, and listing needs no look into files.
2. A directory with anything in it is durable, and the way to it: they are made so before the first
   entry is. Otherwise a writer, killed between the two, could leave a directory that a power cut
   takes away, together with what the next writer puts there.
3. No symbolic link is followed below DIR: nothing outside of it is read, written or deleted. What
   is neither a plain file nor a directory is no blob.

What this store does not do: keep a person's editor and a put apart. The later one wins, unless the
put has a condition.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import re
import stat
import struct
import sys
import time
from collections.abc import Iterator, MutableSequence, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from eventlog.blobs.directory_lock import DirectoryLock
from eventlog.blobs.store import (
    MAX_DATA_BYTES,
    NOT_MODIFIED,
    Blob,
    BlobStore,
    Listing,
    NotModified,
    check_etag,
    check_name,
    check_prefix,
    check_put,
    is_name,
    require,
)
from eventlog.embedded.directory import CONTROL_NAME, refuse_network, sync_with_ancestors
from eventlog.errors import (
    ClosedError,
    InvalidNameError,
    StoreUnavailableError,
    UnsupportedOperationError,
)
from eventlog.positions import LAST_INSTANT_US, instant, microseconds

__all__ = ["DirectoryBlobs"]

_NEW: Final = ".new-blob"
_HOSTS: Final = ".hosts"
_FIRST_INSTANT_US: Final = microseconds(datetime.min.replace(tzinfo=UTC))

_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
_MAKE_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_NO_FOLDER: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)

_PC_CASE_SENSITIVE: Final = 11  # macOS, <sys/unistd.h>
_FS_IOC_GETFLAGS: Final = 0x80086601  # Linux, <linux/fs.h>
_FS_CASEFOLD_FL: Final = 0x40000000


class DirectoryBlobs(BlobStore):
    """Blobs as files.

    Args:
        path: the directory; the first put makes it.
        lock_timeout: seconds to wait for other writers.
    """

    def __init__(self, path: str | os.PathLike[str], *, lock_timeout: float = 30.0) -> None:
        self._path = Path(path).expanduser().resolve()
        self._lock_timeout = lock_timeout
        self._closed = False
        self._folds: bool | None = None
        if self._path.exists() and not self._path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a store is a directory", str(self._path))
        if (self._path / CONTROL_NAME).exists():
            raise UnsupportedOperationError(
                f"{self._path} is a log: open it, and use the store in it (EventLog.blobs)"
            )

    def __repr__(self) -> str:
        return f"<BlobStore at {self._path}>"

    @property
    def shared_directory(self) -> Path:
        """See `BlobStore.shared_directory`: one in DIR whose name begins with a dot."""
        return self._path / _HOSTS

    @property
    def is_closed(self) -> bool:
        """See `BlobStore.is_closed`."""
        return self._closed

    def close(self) -> None:
        """See `BlobStore.close`. Nothing is open between calls."""
        self._closed = True

    # The contract

    def get(self, name: str, *, if_none_match: str | None = None) -> Blob | NotModified | None:
        """See `BlobStore.get`."""
        check_name(name)
        check_etag(if_none_match)
        with self._opened() as root:
            *parents, last = self._file_names(name)
            with _folders(root, parents) as folders:
                status = _status(folders, parents, last)
                if status is None or not _is_plain(status):
                    return None
                if _etag(status) == if_none_match:
                    return NOT_MODIFIED
                return self._read(folders[-1], last, name)

    def put(
        self, name: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False
    ) -> str:
        """See `BlobStore.put`."""
        check_put(name, data, if_match, if_absent=if_absent)
        with self._locked(fcntl.LOCK_EX, make=True) as root:
            *parents, last = self._file_names(name)
            with _folders(root, parents) as folders:
                there = _status(folders, parents, last)
                etag = _etag(there) if there and _is_plain(there) else None
                require(name, etag, if_match=if_match, if_absent=if_absent)
                self._make_folders(folders, parents)
                self._make_durable(folders)
                if there and not _is_plain(there):
                    self._clear(folders[-1], last, there)
                    there = None
                return self._replace(folders, last, data, there)

    def list(self, prefix: str) -> Listing:
        """See `BlobStore.list`.

        A file that gets its name while others are read may be passed over, on some file systems,
        although it replaces another of that name; hence the lock.
        """
        check_prefix(prefix)
        base, slash, _ = prefix.rpartition("/")
        with self._locked(fcntl.LOCK_SH) as root:
            parents = self._file_names(base) if base else []
            with _folders(root, parents) as folders:
                if len(folders) <= len(parents):
                    return []
                return sorted(self._walk(folders[-1], base + slash, prefix))

    def delete(self, name: str, *, if_match: str | None = None) -> None:
        """See `BlobStore.delete`. Directories that it leaves empty go too."""
        check_name(name)
        check_etag(if_match)
        with self._locked(fcntl.LOCK_EX) as root:
            *parents, last = self._file_names(name)
            with _folders(root, parents) as folders:
                there = _status(folders, parents, last)
                etag = _etag(there) if there and _is_plain(there) else None
                require(name, etag, if_match=if_match)
                if etag is not None:
                    os.unlink(last, dir_fd=folders[-1])
                    os.fsync(folders[-1])
                    _prune(folders, parents)

    # Going in

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """The directory, open; -1 if it is not there."""
        with self._usable():
            try:
                root = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                root = -1
            try:
                self._look_over(root)
                yield root
            finally:
                if root >= 0:
                    os.close(root)

    @contextlib.contextmanager
    def _locked(self, kind: int, *, make: bool = False) -> Iterator[int]:
        """The directory, open and locked; -1 if it is not there, and not to be made."""
        with self._usable():
            lock = DirectoryLock(self._path)
            try:
                if make:
                    self._path.mkdir(parents=True, exist_ok=True)
                try:
                    lock.acquire(kind, self._lock_timeout)
                except FileNotFoundError:
                    if make:
                        raise
                self._look_over(lock.file)
                yield lock.file
            finally:
                lock.release()

    @contextlib.contextmanager
    def _usable(self) -> Iterator[None]:
        if self._closed:
            raise ClosedError(f"the store at {self._path} was closed")
        try:
            yield
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise InvalidNameError(f"a name is too long for {self._path}: {error}") from error
            raise StoreUnavailableError(f"the store at {self._path} failed: {error}") from error

    def _look_over(self, root: int) -> None:
        """Learn what is to be known of the directory's file system, once it is there."""
        if self._folds is None and root >= 0:
            refuse_network(self._path)
            self._folds = _folds_case(root)

    def _file_names(self, name: str) -> Sequence[str]:
        """What the segments of a name are called in the directory."""
        segments = name.split("/")
        return tuple(map(_to_file_name, segments)) if self._folds else segments

    # Reading

    def _read(self, folder: int, last: str, name: str) -> Blob | None:
        """The blob in an open directory.

        The etag is from before the data are read: where a person edits the file meanwhile, it is
        too old rather than too new, and a put on the strength of it is refused.
        """
        try:
            descriptor = os.open(last, _OPEN_FILE, dir_fd=folder)
        except FileNotFoundError:
            return None
        with io.FileIO(descriptor) as file:
            status = os.fstat(descriptor)
            if status.st_size > MAX_DATA_BYTES:
                raise StoreUnavailableError(
                    f"the file of the blob {name!r} in {self._path} has {status.st_size:,} bytes; "
                    f"a blob has at most {MAX_DATA_BYTES:,}"
                )
            return Blob(name, file.readall(), _etag(status), _modified_at(status))

    def _walk(self, folder: int, path: str, prefix: str) -> Iterator[tuple[str, str]]:
        """Names that begin with `prefix`, and etags, of blobs in and under an open directory."""
        with os.scandir(folder) as entries:
            for entry in entries:
                name = path + (_of_file_name(entry.name) if self._folds else entry.name)
                if not name.startswith(prefix) or not is_name(name):
                    continue
                with contextlib.suppress(FileNotFoundError):  # removed by hand meanwhile
                    if entry.is_file(follow_symlinks=False):
                        yield name, _etag(entry.stat(follow_symlinks=False))
                    elif entry.is_dir(follow_symlinks=False):
                        with _folders(folder, [entry.name]) as folders:
                            if len(folders) > 1:
                                yield from self._walk(folders[-1], f"{name}/", prefix)

    # Writing, with the lock

    def _make_folders(self, folders: MutableSequence[int], parents: Sequence[str]) -> None:
        """Make those of the directories `parents` that are not open yet, and open them."""
        for parent in parents[len(folders) - 1 :]:
            self._make_durable(folders)
            try:
                os.mkdir(parent, dir_fd=folders[-1])
            except FileExistsError:
                raise InvalidNameError(
                    f"{parent!r} in {self._path} is no directory: a blob cannot be stored under it"
                ) from None
            folders.append(os.open(parent, _OPEN_FOLDER, dir_fd=folders[-1]))

    def _make_durable(self, folders: Sequence[int]) -> None:
        """Before the first entry in the last directory: see invariant 2."""
        with os.scandir(folders[-1]) as entries:
            if any(entry.name != _HOSTS for entry in entries):  # that is made by others
                return
        if len(folders) > 1:
            os.fsync(folders[-2])
        else:
            sync_with_ancestors(self._path)

    def _replace(
        self, folders: Sequence[int], last: str, data: bytes, there: os.stat_result | None
    ) -> str:
        """Make `data` the file `last`, in place of what is `there`; its etag."""
        root, folder = folders[0], folders[-1]
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_NEW, dir_fd=root)
        file = os.open(_NEW, _MAKE_FILE, 0o666, dir_fd=root)
        try:
            try:
                etag = self._fill(file, data, there)
            finally:
                os.close(file)
            os.rename(_NEW, last, src_dir_fd=root, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_NEW, dir_fd=root)
            raise
        os.fsync(folder)
        return etag

    def _fill(self, file: int, data: bytes, there: os.stat_result | None) -> str:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file, rest) :]
        when = time.time_ns()
        if there is not None:
            os.fchmod(file, stat.S_IMODE(there.st_mode) & 0o777)
            when = max(when, there.st_mtime_ns + 1)
        os.utime(file, ns=(when, when))
        os.fsync(file)
        status = os.fstat(file)
        if status.st_mtime_ns != when:
            raise UnsupportedOperationError(
                f"the file system of {self._path} does not keep times to the nanosecond, by which "
                "a store tells versions apart"
            )
        return _etag(status)

    def _clear(self, folder: int, last: str, there: os.stat_result) -> None:
        """Remove what is in a new blob's place, if it is but empty directories."""
        in_the_way = f"{last!r} in {self._path} is no plain file: no blob can be stored there"
        if not stat.S_ISDIR(there.st_mode):
            raise InvalidNameError(in_the_way)
        try:
            for _, inner, _, file in os.fwalk(last, topdown=False, dir_fd=folder):
                for each in inner:
                    os.rmdir(each, dir_fd=file)
            os.rmdir(last, dir_fd=folder)
        except OSError as error:
            raise InvalidNameError(f"{in_the_way} ({error})") from error


@contextlib.contextmanager
def _folders(root: int, names: Sequence[str]) -> Iterator[MutableSequence[int]]:
    """The directories that `names` lead down to, open, as far as they are there; first `root`.

    An absent `root` gives none. Whoever appends to the list need not close what it appends.
    """
    opened = [root] if root >= 0 else []
    try:
        for name in names if opened else ():
            try:
                opened.append(os.open(name, _OPEN_FOLDER, dir_fd=opened[-1]))
            except OSError as error:
                if error.errno not in _NO_FOLDER:
                    raise
                break
        yield opened
    finally:
        for file in opened[1:]:
            os.close(file)


def _status(folders: Sequence[int], parents: Sequence[str], last: str) -> os.stat_result | None:
    """What is known of the entry `last`; None if there is none."""
    if len(folders) <= len(parents):
        return None
    try:
        return os.stat(last, dir_fd=folders[-1], follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_plain(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode)


def _prune(folders: Sequence[int], parents: Sequence[str]) -> None:
    """Remove directories that are empty, from the last one up. Should a crash undo it: no harm."""
    for folder, parent in reversed(list(zip(folders, parents, strict=False))):
        try:
            os.rmdir(parent, dir_fd=folder)
        except OSError:
            return


def _etag(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def _modified_at(status: os.stat_result) -> datetime:
    """In the years that a datetime has; a person may set any other."""
    return instant(min(max(status.st_mtime_ns // 1000, _FIRST_INSTANT_US), LAST_INSTANT_US))


# ---- File systems to which "A" and "a" are the same ----------------------------------------------


def _folds_case(directory: int) -> bool:
    """Whether names in an open directory that differ in case only are one name to the system."""
    if sys.platform == "darwin":
        return os.fpathconf(directory, _PC_CASE_SENSITIVE) == 0
    try:
        flags = fcntl.ioctl(directory, _FS_IOC_GETFLAGS, bytes(8))
    except OSError:
        return False  # it has no such flags
    return bool(struct.unpack_from("I", flags)[0] & _FS_CASEFOLD_FL)


def _to_file_name(segment: str) -> str:
    """A file name that differs from all others in more than case: ``!cars`` for ``Cars``."""
    return re.sub("[A-Z]", lambda letter: f"!{letter[0].lower()}", segment)


def _of_file_name(file_name: str) -> str:
    """The inverse; of what it cannot have made, something that is no segment, if not the same."""
    return re.sub("!([a-z])", lambda letter: letter[1].upper(), file_name.lower())
