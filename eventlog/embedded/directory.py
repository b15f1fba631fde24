"""The directory a log lives in: what files it has, and what is not a log.

==========================  =====================================================================
``eventlog.control``        `Control`: format version, durability, generation, the log's id
``eventlog.control-new``    the same, of a log that is being made
``eventlog.lock``           one lock of the kernel's: held by the process that writes
``eventlog.wakeup``         counters that tell waiting readers of commits; no part of a copy
``eventlog.hosts``          a directory of locks that hosts hold while they live; no part of a copy
``events-N.mdb``            the LMDB environment of generation N
``events-N.mdb-lock``       LMDB's own locks and table of readers
==========================  =====================================================================

`compact` copies the environment into generation N + 1 and then raises the number in the control
file, which every process looks at (through a mapping, so it costs no system call) before each
transaction. Files of other generations are leftovers and are removed by whoever holds the lock.

Invariants:

1. The control file comes last, by a rename: a directory without one holds no log, whatever else a
   crash left there, and may be made into one; unless events were stored in it.
2. The control file and the directory's entries are on the disk before anything is acknowledged.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import struct
import uuid
from pathlib import Path
from typing import Final, Literal, NamedTuple

import xxhash

from eventlog.embedded.environment_file import has_commits
from eventlog.errors import (
    FormatVersionError,
    LogNotFoundError,
    NotALogError,
    UnsupportedOperationError,
)

__all__ = ["Control", "ControlFile", "Durability", "make_durable", "refuse_network"]

Durability = Literal["disk", "process"]

FORMAT_VERSION: Final = 1
CONTROL_NAME: Final = "eventlog.control"
LOCK_NAME: Final = "eventlog.lock"
WAKEUP_NAME: Final = "eventlog.wakeup"
HOSTS_NAME: Final = "eventlog.hosts"

_MAGIC: Final = b"eventlog"
_DURABILITIES: Final[tuple[Durability, ...]] = ("disk", "process")
_ENVIRONMENT: Final = re.compile(r"events-(\d+)\.mdb(-lock|-copy)?")


def environment_name(generation: int) -> str:
    """File name of the LMDB environment of a generation."""
    return f"events-{generation}.mdb"


class Control(NamedTuple):
    """What the control file says; 48 bytes, big-endian, ending in the XXH3-64 of the rest::

    magic "eventlog" | version u32 | durability u32 | generation u64 | log id 16 bytes | digest u64
    """

    durability: Durability
    generation: int
    log_id: uuid.UUID

    def encode(self) -> bytes:
        """Its bytes."""
        fields = _MAGIC + struct.pack(
            ">IIQ16s",
            FORMAT_VERSION,
            _DURABILITIES.index(self.durability),
            self.generation,
            self.log_id.bytes,
        )
        return fields + struct.pack(">Q", xxhash.xxh3_64_intdigest(fields))

    @classmethod
    def decode(cls, data: bytes, path: Path) -> Control:
        """The inverse of `encode`; `path` is named in errors.

        Raises:
            NotALogError: these are not the bytes of a control file, or damaged ones.
            FormatVersionError: a newer version wrote them.
        """
        if len(data) < CONTROL_BYTES or data[:8] != _MAGIC:
            raise NotALogError(f"{path} does not begin like the control file of a log")
        (version,) = struct.unpack_from(">I", data, 8)
        if version > FORMAT_VERSION:
            raise FormatVersionError(
                f"{path.parent} is a log of format {version}; "
                f"this version of eventlog knows formats up to {FORMAT_VERSION}: upgrade it"
            )
        fields = data[: CONTROL_BYTES - 8]
        if struct.unpack_from(">Q", data, CONTROL_BYTES - 8) != (xxhash.xxh3_64_intdigest(fields),):
            raise NotALogError(f"{path} is damaged: it does not match its checksum")
        durability, generation, log_id = struct.unpack_from(">IQ16s", fields, 12)
        if durability >= len(_DURABILITIES):
            raise NotALogError(f"{path} names durability {durability}, which does not exist")
        return cls(_DURABILITIES[durability], generation, uuid.UUID(bytes=log_id))


CONTROL_BYTES: Final = 48
_GENERATION: Final = slice(16, 24)


class ControlFile:
    """The control file of an open log: its generation can be looked at for next to nothing."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / CONTROL_NAME
        with self.path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), CONTROL_BYTES, access=mmap.ACCESS_READ)

    def read(self) -> Control:
        """What it says now, checked."""
        return Control.decode(self._map[:], self.path)

    @property
    def generation(self) -> bytes:
        """Its generation as stored: to be compared, not to be read."""
        return self._map[_GENERATION]

    def close(self) -> None:
        """Unmap it."""
        self._map.close()


def read_control(directory: Path) -> Control | None:
    """What the control file in `directory` says; None where no log was finished being made.

    Raises:
        LogNotFoundError: there is no such directory.
        NotALogError: it is no directory, or its control file is none.
        FormatVersionError: a newer version wrote it.
    """
    path = directory / CONTROL_NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if not directory.exists():
            raise LogNotFoundError(f"there is no log at {directory}") from None
        return None
    except NotADirectoryError:
        raise NotALogError(f"{directory} is a file; a log is a directory") from None
    return Control.decode(data, path)


def create_control(directory: Path, control: Control) -> None:
    """Write the first control file, durably: it is there whole, or not at all."""
    unfinished = directory / f"{CONTROL_NAME}-new"
    _write_durably(unfinished, control.encode(), os.O_TRUNC)
    unfinished.rename(directory / CONTROL_NAME)
    sync_directory(directory)


def replace_control(directory: Path, control: Control) -> None:
    """Change the control file, durably. Readers that map it see the change at once.

    Written in place, since others map it. It is far smaller than a sector, and a power cut leaves
    a sector whole: the generation is the old one or the new one.
    """
    _write_durably(directory / CONTROL_NAME, control.encode(), 0)


def _write_durably(path: Path, data: bytes, flags: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o666)
    try:
        os.pwrite(descriptor, data, 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_durable(directory: Path) -> None:
    """Make a log's control file, its directory's entries, and the way to it durable.

    Whoever is going to write does so first: another process may have made the log, or a new
    generation of it, and been killed before it got to that.
    """
    descriptor = os.open(directory / CONTROL_NAME, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_with_ancestors(directory)


def sync_with_ancestors(directory: Path) -> None:
    """Make `directory` and the way to it durable, as far as it is on one file system."""
    device = directory.stat().st_dev
    for ancestor in (directory, *directory.parents):
        with contextlib.suppress(PermissionError):
            if ancestor.stat().st_dev != device:
                break
            sync_directory(ancestor)


def sync_directory(directory: Path) -> None:
    """Make the entries of `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(directory: Path, generation: int) -> None:
    """Remove environments of other generations. Only with the write lock held."""
    for path in directory.iterdir():
        match = _ENVIRONMENT.fullmatch(path.name)
        if match and (int(match[1]) != generation or match[2] == "-copy"):
            path.unlink(missing_ok=True)


def refuse_foreign(directory: Path) -> None:
    """Refuse to make a log among files that are not what a crash while making one leaves.

    Raises:
        NotALogError: `directory` holds something else, or events without a control file.
    """
    ours = {f"{CONTROL_NAME}-new", LOCK_NAME, WAKEUP_NAME}
    for path in directory.iterdir():
        if path.name == HOSTS_NAME:
            continue
        match = _ENVIRONMENT.fullmatch(path.name)
        if not path.is_file() or (not match and path.name not in ours):
            raise NotALogError(
                f"{directory} holds no log, but other files ({path.name!r} among them); "
                "a log is made in a directory of its own"
            )
        if match and match[2] is None and has_commits(path):
            raise NotALogError(
                f"{directory} has events in {path.name}, but its control file {CONTROL_NAME} is "
                "missing: restore it"
            )


# fmt: off
_NETWORK_FILE_SYSTEMS: Final = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs",
    "fuse.sshfs", "gfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2",
    "orangefs", "smb2", "smb3", "smbfs",
})
# fmt: on
_MOUNTS: Final = Path("/proc/self/mountinfo")


def refuse_network(directory: Path, mounts: Path = _MOUNTS) -> None:
    """Refuse a network file system: neither its locks nor its mappings are shared in earnest.

    Where the system has no `mounts` to read (macOS), nothing is refused.

    Raises:
        UnsupportedOperationError: `directory` is on one; the message names it.
    """
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return
    status = directory.stat()
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    for line in lines:
        fields, _, source = line.partition(" - ")
        kind = source.split(" ", 1)[0]
        if fields.split(" ")[2] == device and kind in _NETWORK_FILE_SYSTEMS:
            raise UnsupportedOperationError(
                f"{directory} is on a network file system ({kind}), where processes cannot share "
                "a log safely; put it on a local disk"
            )
