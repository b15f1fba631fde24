"""The LMDB environment of a log: opened once in a process, shared by all who open the log there.

Invariants:

1. A process has an environment open at most once, however often `Environment.acquire` is called:
   LMDB's locks belong to the process, and closing a second one would drop the first one's.
2. Nobody is inside a transaction when the environment is closed, opened anew, or the process
   forks: all pass the gate, and those three close it first.
3. A read transaction lasts as long as a fetch. No code of a user's runs inside one.

After a fork the child closes its copy before anything else and opens its own on first use. That
is safe only because of 2, and because no read transaction is kept for later
(``max_spare_txns=0``): an idle one would own a reader slot of the parent's that closing clears.

Commits are not made here but in `eventlog.embedded.commit`.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import lmdb

from eventlog.embedded import directory as files
from eventlog.embedded.commit import Committer
from eventlog.embedded.environment_file import check_environment_file, map_size_of
from eventlog.embedded.growth import Growth
from eventlog.embedded.locks import Gate, ProcessLock
from eventlog.embedded.opening import MAX_READERS, open_lmdb
from eventlog.embedded.wakeup import Wakeup
from eventlog.errors import (
    ClosedError,
    EventLogError,
    LogBusyError,
    LogFullError,
    LogNotFoundError,
    NotALogError,
    UnsupportedOperationError,
)

__all__ = ["Environment", "Options"]

T = TypeVar("T")

MAX_READS_PER_PROCESS: Final = 128
"""Read transactions at one time in one process; more wait for one of them to end."""

_FORK_WAIT_SECONDS: Final = 10.0
_PAGE_HEADER_BYTES: Final = 16


class Options(NamedTuple):
    """How an environment is opened."""

    create: bool
    read_only: bool
    durability: files.Durability | None
    map_size: int
    lock_timeout: float
    clock: Callable[[], int]


class Environment:
    """One log's LMDB environment, and how many in this process have it open."""

    def __init__(self, directory: Path, options: Options) -> None:
        self.directory = directory
        self.read_only = options.read_only
        self.map_size = options.map_size
        self.clock = options.clock
        self.users = 0
        self._key = (-1, -1)
        self.gate = Gate(MAX_READS_PER_PROCESS)
        self.committer = Committer(self)
        self.reopening = threading.Lock()
        self.process_lock: ProcessLock | None = None
        control = self._read_or_create(options)
        self.durability = control.durability
        self.log_id = control.log_id
        if options.durability not in (None, control.durability):
            self._unlock()
            raise _other_durability(directory, control.durability, options.durability)
        self._control = files.ControlFile(directory)
        self.wakeup = Wakeup(directory, self._last_transaction, read_only=options.read_only)
        self._lmdb: lmdb.Environment | None = None
        self.growth: Growth | None = None
        self.generation = b""
        try:
            if not options.read_only:
                self._tidy()
            self._open()
        except BaseException:
            self._unlock()
            self.wakeup.close()
            self._control.close()
            raise

    # Opening and closing

    @classmethod
    def acquire(cls, directory: Path, options: Options) -> Environment:
        """The environment in `directory`, opened unless this process has it open.

        Raises:
            LogNotFoundError: nothing is there and ``options.create`` is false.
            NotALogError, FormatVersionError: something else, or something newer, is there.
            UnsupportedOperationError: made with another durability; or a network file system.
            LogBusyError: another process kept it locked.
        """
        with _registry_lock:
            key = _prepare(directory, options)
            environment = _registry.get(key)
            if environment is None:
                environment = cls(directory, options)
                _registry[key] = environment
            elif options.durability not in (None, environment.durability):
                raise _other_durability(directory, environment.durability, options.durability)
            environment.users += 1
            environment._key = key
            if environment.read_only and not options.read_only:
                environment._make_writable()
            return environment

    def release(self) -> None:
        """Undo one `acquire`; the last one closes the environment when all work is done."""
        with _registry_lock:
            self.users -= 1
            if self.users:
                return
            _registry.pop(self._key, None)
            self.committer.close()
            thread = threading.get_ident()
            try:
                self.gate.close()
                self._close()
            finally:
                self.gate.open(thread)
            self.wakeup.close()
            self._control.close()
            self._unlock()

    def _lock(self) -> ProcessLock:
        self.process_lock = self.process_lock or ProcessLock(self.directory / files.LOCK_NAME)
        return self.process_lock

    def _unlock(self) -> None:
        if self.process_lock is not None:
            self.process_lock.close()
            self.process_lock = None

    def _read_or_create(self, options: Options) -> files.Control:
        control = files.read_control(self.directory)
        if control is not None:
            return control
        if options.read_only or not options.create:
            raise LogNotFoundError(f"there is no log at {self.directory}")
        files.refuse_foreign(self.directory)
        lock = self._lock()
        try:
            lock.acquire(options.lock_timeout)
            try:
                return files.read_control(self.directory) or self._create(options)
            finally:
                lock.release()
        except BaseException:
            self._unlock()
            raise

    def _create(self, options: Options) -> files.Control:
        """Make the log. The control file comes last: a crash before it leaves no log."""
        control = files.Control(options.durability or "disk", 1, uuid.uuid4())
        files.remove_leftovers(self.directory, 0)
        path = self.directory / files.environment_name(control.generation)
        environment = open_lmdb(path, self.map_size, read_only=False, synced=True)
        environment.sync(True)  # noqa: FBT003 - its only parameter: even if not asked to
        environment.close()
        files.create_control(self.directory, control)
        return control

    def _open(self) -> None:
        """Open the environment of the current generation."""
        if not self.read_only:
            files.make_durable(self.directory)
        while True:
            generation = self._control.generation
            control = self.control()
            path = self.directory / files.environment_name(control.generation)
            try:
                check_environment_file(path)
                opened = open_lmdb(
                    path,
                    max(self.map_size, map_size_of(path)),
                    read_only=self.read_only,
                    synced=control.durability == "disk",
                )
            except NotALogError:
                if generation != self._control.generation:
                    continue
                raise
            if generation == self._control.generation:
                break
            opened.close()
        self._lmdb = opened
        self.generation = generation
        if not self.read_only:
            synced = self.durability == "disk"
            self.growth = Growth(path, opened.stat()["psize"], zeroing=synced)
        self.page_bytes: int = opened.stat()["psize"]
        self.map_pages: int = opened.info()["map_size"] // self.page_bytes
        self.chunk_bytes = self.page_bytes - _PAGE_HEADER_BYTES
        opened.reader_check()

    def reopen(self) -> None:
        """Close and open again, with nobody inside: after a fork, a compaction, a failure.

        Raises:
            ClosedError: nobody has the log open any more.
        """
        if not self.users:
            raise ClosedError(f"the log at {self.directory} was closed")
        thread = threading.get_ident()
        with self.reopening:
            try:
                self.gate.close()
                self._close()
                self._open()
            finally:
                self.gate.open(thread)

    def _close(self) -> None:
        if self._lmdb is not None:
            self._lmdb.close()
            self._lmdb = None
        if self.growth is not None:
            self.growth.close()
            self.growth = None

    def _tidy(self) -> None:
        """Remove what a compaction left that was killed, unless another process is writing."""
        lock = self._lock()
        try:
            lock.acquire(0)
        except LogBusyError:
            return
        try:
            files.remove_leftovers(self.directory, self.control().generation)
        finally:
            lock.release()

    def _make_writable(self) -> None:
        self._lock()
        self.read_only = False
        self.wakeup.make_writable()
        self.reopen()

    # Transactions

    def look(self, do: Callable[[lmdb.Transaction], T], lock_timeout: float = 30.0) -> T:
        """What `do` returns of a read transaction that hands out views of pages.

        The views are valid until `do` returns. (No context manager: Ctrl-C on the way out of one
        would leave the thread inside the gate.)

        Raises:
            ClosedError: the log was closed.
            LogBusyError: every reader slot of the log stayed taken for `lock_timeout` seconds.
        """
        thread = threading.get_ident()
        try:
            self.gate.enter()
            transaction = self._begin_read(lock_timeout)
            try:
                return do(transaction)
            except (lmdb.Error, SystemError) as error:  # py-lmdb's, of a damaged tree
                raise EventLogError(
                    f"reading at {self.directory} failed ({error!r}): the file is damaged; restore "
                    "it from a backup"
                ) from error
            finally:
                transaction.abort()
        finally:
            self.gate.leave(thread)

    def _begin_read(self, lock_timeout: float) -> lmdb.Transaction:
        """Begin reading; the caller is inside the gate, and is so again when this returns."""
        deadline = None
        while True:
            try:
                if self._control.generation == self.generation and self._lmdb is not None:
                    return self._lmdb.begin(buffers=True)
                self.step_out(self._follow_generation)
            except lmdb.MapResizedError:
                self.step_out(self.reopen)
            except lmdb.ReadersFullError:
                deadline = deadline or time.monotonic() + lock_timeout
                self._wait_for_reader_slot(deadline)
            except (ValueError, lmdb.Error) as error:
                raise self.translated(error, "reading") from error

    def step_out(self, do: Callable[[], None]) -> None:
        """Leave the gate to do what needs it empty."""
        self.gate.leave(threading.get_ident())
        try:
            do()
        finally:
            self.gate.enter()

    def _follow_generation(self) -> None:
        if self._lmdb is None or self._control.generation != self.generation:
            self.reopen()

    def _wait_for_reader_slot(self, deadline: float) -> None:
        assert self._lmdb is not None
        if self._lmdb.reader_check():
            return
        if time.monotonic() > deadline:
            raise LogBusyError(f"all {MAX_READERS} reader slots of {self.directory} are taken")
        time.sleep(0.001)

    def _last_transaction(self) -> int:
        return self.look(lambda transaction: int(transaction.id()), lock_timeout=0)

    @property
    def lmdb(self) -> lmdb.Environment:
        """The LMDB environment itself, of the current generation; inside the gate only."""
        if self._lmdb is None:
            raise ClosedError(f"the log at {self.directory} was closed")
        return self._lmdb

    def control(self) -> files.Control:
        """What the control file says now."""
        try:
            return self._control.read()
        except NotALogError:
            return self._control.read()  # another process was just writing it

    def current(self) -> bool:
        """Whether the environment that is open is the one the log now lives in."""
        return self._lmdb is not None and self._control.generation == self.generation

    def translated(self, error: Exception, doing: str) -> Exception:
        """What an error of LMDB's, or of the file system under it, is to our callers."""
        where = self.directory
        if isinstance(error, lmdb.MapFullError):
            size = self.map_pages * self.page_bytes
            return LogFullError(
                f"{doing} needs more than the log's map_size of {size} bytes ({where}); "
                "expire or delete events, or open it with a larger map_size"
            )
        if isinstance(error, lmdb.DiskError) or (isinstance(error, lmdb.Error) and _is_full(where)):
            return LogFullError(f"the disk is full: {doing} at {where} failed")
        if isinstance(error, lmdb.Error):
            return EventLogError(f"{doing} at {where} failed: {error}")
        return error

    # Forking

    def close_in_child(self, *, quiet: bool) -> None:
        """In a child just forked: drop what is the parent's. The next use opens anew."""
        self.gate = Gate(MAX_READS_PER_PROCESS)
        self.committer = Committer(self)
        self.reopening = threading.Lock()
        self.wakeup.renew()
        if quiet:
            self._close()
        elif self._lmdb is not None:
            _abandoned.append(self._lmdb)
            self.committer.fail(
                EventLogError("the process forked while a transaction would not end")
            )
        if self.process_lock is not None:
            self._unlock()
            self._lock()


_registry: dict[tuple[int, int], Environment] = {}
_registry_lock = threading.RLock()
_abandoned: list[lmdb.Environment] = []
_fork_quiet: dict[int, bool] = {}


def _before_fork() -> None:
    _registry_lock.acquire()
    for environment in _registry.values():
        environment.reopening.acquire()
        _fork_quiet[id(environment)] = environment.gate.close(_FORK_WAIT_SECONDS)


def _after_fork_in_parent() -> None:
    for environment in _registry.values():
        environment.gate.open(threading.get_ident())
        environment.reopening.release()
    _fork_quiet.clear()
    _registry_lock.release()


def _after_fork_in_child() -> None:
    global _registry_lock  # noqa: PLW0603 - its copy is held by the thread that forked
    _registry_lock = threading.RLock()
    for environment in _registry.values():
        environment.close_in_child(quiet=_fork_quiet[id(environment)])
    _fork_quiet.clear()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)


def _other_durability(directory: Path, made: str, asked: str | None) -> EventLogError:
    return UnsupportedOperationError(
        f"the log at {directory} was made with durability={made!r}, which cannot be changed: it "
        f"was opened with durability={asked!r}"
    )


def _prepare(directory: Path, options: Options) -> tuple[int, int]:
    """Make or find the directory; its identity is the key under which it is opened once."""
    if options.create and not options.read_only:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise NotALogError(f"{directory} is a file; a log is a directory") from None
    try:
        status = directory.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise LogNotFoundError(f"there is no log at {directory}") from None
    if not directory.is_dir():
        raise NotALogError(f"{directory} is a file; a log is a directory")
    files.refuse_network(directory)
    return status.st_dev, status.st_ino


def _is_full(directory: Path) -> bool:
    """Whether a failed write may be for want of room: LMDB calls a short write an EIO."""
    with contextlib.suppress(OSError):
        status = os.statvfs(directory)
        return status.f_bavail * status.f_frsize < 2**20
    return False
