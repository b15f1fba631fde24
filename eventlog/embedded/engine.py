"""``EventLog`` on the embedded engine: a directory."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import lmdb

from eventlog import topic_settings as settings
from eventlog.consuming.readership import RELEASE_SECONDS
from eventlog.embedded import keys
from eventlog.embedded.catalog import (
    LogRecord,
    TopicRecord,
    has_deleted,
    read_log_record,
    read_topics,
)
from eventlog.embedded.check import check_log
from eventlog.embedded.copies import backup, compact
from eventlog.embedded.directory import HOSTS_NAME
from eventlog.embedded.opening import MAX_MAP_BYTES, MIN_MAP_BYTES
from eventlog.embedded.retention import remove_deleted
from eventlog.embedded.storage import Environment, Options
from eventlog.embedded.ticket import Work
from eventlog.embedded.topic import EmbeddedTopic
from eventlog.embedded.writer import STEP_ROWS, Writer
from eventlog.engine.log import EngineLog
from eventlog.engine.topic import refuse_other
from eventlog.errors import (
    ClosedError,
    LogNotFoundError,
    NotALogError,
    TopicExistsError,
    TopicNotFoundError,
    UnsupportedOperationError,
)
from eventlog.log import CheckReport, Duration, EventLog, Partitioner, Topic
from eventlog.names import check_name

if TYPE_CHECKING:
    from eventlog.blobs import BlobStore
    from eventlog.embedded.blobs import EmbeddedBlobs
    from eventlog.embedded.transaction import EmbeddedTransaction

__all__ = ["EmbeddedLog", "open_embedded"]

T = TypeVar("T")

_MEMORY_FILE_SYSTEM: Final = Path("/dev/shm")  # noqa: S108 - mkdtemp makes a directory of our own in it


class EmbeddedLog(EngineLog):
    """See `EventLog`. Several of them may share one `Environment` in a process."""

    def __init__(
        self,
        directory: Path,
        options: Options,
        location: str,
        *,
        blobs: str | BlobStore | None = None,
        removed_on_close: bool = False,
    ) -> None:
        super().__init__(blobs, read_only=options.read_only)
        self._location = location
        self.leftovers = False
        self._lock_timeout = options.lock_timeout
        self._mutex = threading.Lock()
        self._removed_on_close = removed_on_close
        self._environment: Environment | None = Environment.acquire(directory, options)
        self._directory = self._environment.directory
        if not self._read_only:
            self.leftovers = self.look(has_deleted)

    @property
    def location(self) -> str:
        return self._location

    @property
    def id(self) -> str:
        return str(self.environment.log_id)

    @property
    def hosts_directory(self) -> Path | None:
        """Where hosts keep locks; None if the log is in memory, and goes with its users."""
        return None if self._removed_on_close else self._directory / HOSTS_NAME

    # What topics use of it

    @property
    def environment(self) -> Environment:
        """The open environment.

        Raises:
            ClosedError: it was closed.
        """
        environment = self._environment
        if environment is None:
            raise ClosedError(f"the log at {self.location} was closed")
        return environment

    def now_us(self) -> int:
        return self.environment.clock()

    def look(self, do: Callable[[lmdb.Transaction], T], /) -> T:
        """What `do` returns of a read transaction; see `Environment.look`."""
        return self.environment.look(do, self._lock_timeout)

    def commit(self, work: Work[T], *, timeout: Duration | None = None, size: int = 0) -> T:
        """Run `work` in a write transaction; see `Committer.run`.

        Raises:
            UnsupportedOperationError: the log was opened to be read.
        """
        self.refuse_reader()
        wait = self._lock_timeout if timeout is None else settings.seconds(timeout, "timeout")
        return self.environment.committer.run(work, timeout=wait, size=size)

    # Topics

    def create_topic(
        self,
        name: str,
        *,
        partitions: int = 4,
        retention: Duration | None = None,
        retention_bytes: int | None = None,
        compression: Literal["zstd", "none"] = "zstd",
        partitioner: Partitioner = "eventhubs",
        max_event_bytes: int = 2**20,
        exist_ok: bool = False,
    ) -> Topic:
        wanted = TopicRecord(
            id=0,
            name=check_name(name, "topic"),
            partitions=settings.check_count(partitions, "partitions", settings.MAX_PARTITIONS),
            retention_us=settings.retention_us(retention),
            retention_bytes=settings.check_bytes(retention_bytes, "retention_bytes"),
            compression=settings.check_compression(compression),
            partitioner=self.remember(partitioner),
            max_event_bytes=settings.check_count(
                max_event_bytes, "max_event_bytes", settings.MAX_EVENT_BYTES
            ),
            created_us=self.now_us(),
        )
        if exist_ok and (there := self._find(name)) is not None:
            return self._taken(wanted, there)
        return self._taken(
            wanted, self.commit(lambda writer: _create(writer, wanted, exist_ok=exist_ok))
        )

    def _taken(self, wanted: TopicRecord, there: tuple[TopicRecord, bytes]) -> Topic:
        """The topic that is there; a warning if it is not quite what was wanted."""
        refuse_other(wanted, there[0])
        made = EmbeddedTopic(self, *there)
        made.warn_unless(EmbeddedTopic(self, wanted, b""))
        return made

    def _find(self, name: str) -> tuple[TopicRecord, bytes] | None:
        stored = self.look(lambda transaction: _copied(transaction.get(keys.topic_key(name))))
        return None if stored is None else (TopicRecord.decode(stored), stored)

    def topic(self, name: str) -> Topic:
        found = self._find(check_name(name, "topic"))
        if found is None:
            raise TopicNotFoundError(f"the log at {self.location} has no topic {name!r}")
        return EmbeddedTopic(self, *found)

    def topics(self) -> list[Topic]:
        records, damaged = self.look(read_topics)
        if damaged:
            raise NotALogError(f"the records of topics are damaged: {', '.join(damaged)}")
        return [EmbeddedTopic(self, record, record.encode()) for record in records]

    def delete_topic(self, name: str) -> None:
        check_name(name, "topic")

        def work(writer: Writer) -> None:
            stored = writer.get(keys.topic_key(name))
            if stored is None:
                raise TopicNotFoundError(f"the log at {self.location} has no topic {name!r}")
            writer.put(keys.deleted_key(TopicRecord.decode(stored).id), bytes(stored))
            writer.delete(keys.topic_key(name))

        self.commit(work)
        self.remove_deleted()

    def remove_deleted(self) -> None:
        """Remove what deleted topics left, step by step."""
        self.leftovers = True
        while self.commit(lambda writer: remove_deleted(writer, STEP_ROWS)):
            pass
        self.leftovers = False

    def handle(self, topic: str | Topic) -> EmbeddedTopic:
        if isinstance(topic, str):
            topic = self.topic(topic)
        if not isinstance(topic, EmbeddedTopic):
            raise TypeError(f"a topic is a str or a Topic, not {type(topic).__name__}")
        if topic.log.environment is not self.environment:
            raise ValueError(f"{topic!r} is not a topic of the log at {self.location}")
        return topic

    # The log as a whole

    def transaction(self) -> EmbeddedTransaction:
        from eventlog.embedded.transaction import EmbeddedTransaction

        _ = self.environment  # the log is open
        self.refuse_reader()
        return EmbeddedTransaction(self)

    @functools.cached_property
    def own_blobs(self) -> EmbeddedBlobs:
        """The store that is in the log itself."""
        from eventlog.embedded.blobs import EmbeddedBlobs

        return EmbeddedBlobs(self)

    @property
    def blobs(self) -> BlobStore:
        return self._blobs or self.own_blobs

    def store(self, store: BlobStore | str | None = None) -> BlobStore:
        return self.blobs if store is None else self._stores.get(store)

    def require_own_blobs(self) -> None:
        """Refuse checkpoints in a transaction if they are kept elsewhere.

        Raises:
            UnsupportedOperationError: they are.
        """
        if self.blobs is not self.own_blobs:
            raise UnsupportedOperationError(
                "checkpoints join a transaction only in the log's own store, and this log was "
                "opened with another one (blobs=...)"
            )

    def check(self) -> CheckReport:
        return check_log(self.look, self.now_us)

    def backup(self, path: str | os.PathLike[str]) -> None:
        backup(self.environment, Path(path))

    def compact(self) -> None:
        self.refuse_reader()
        environment = self.environment
        environment.committer.run_alone(lambda: compact(environment), timeout=self._lock_timeout)

    def _close_readership(self) -> None:
        # What is left to be done for consumers goes on while others are waited for, and holds up
        # who closes the environment.
        self._lock_timeout = min(self._lock_timeout, RELEASE_SECONDS / 2)
        super()._close_readership()

    def _close(self) -> None:
        with self._mutex:
            environment, self._environment = self._environment, None
        if environment is None:
            return
        self._stores.close()
        environment.release()
        if self._removed_on_close:
            _forget_memory(self._directory)


def _copied(value: bytes | memoryview | None) -> bytes | None:
    return None if value is None else bytes(value)


def _create(writer: Writer, wanted: TopicRecord, *, exist_ok: bool) -> tuple[TopicRecord, bytes]:
    """Make a topic, inside the transaction."""
    key = keys.topic_key(wanted.name)
    there = writer.get(key)
    if there is not None:
        record = TopicRecord.decode(there)
        if not exist_ok:
            raise TopicExistsError(f"topic {wanted.name!r} exists")
        refuse_other(wanted, record)
        return record, bytes(there)
    log = read_log_record(writer.transaction)
    fields = {name: getattr(wanted, name) for name in wanted.__struct_fields__}
    record = TopicRecord(**{**fields, "id": log.next_topic_id})
    stored = record.encode()
    writer.put(key, stored)
    writer.put(keys.LOG_KEY, LogRecord(next_topic_id=log.next_topic_id + 1).encode())
    return record, stored


# Opening


def _system_clock() -> int:
    return time.time_ns() // 1000


def open_embedded(
    kind: str, place: str, *, blobs: str | BlobStore | None = None, **given: Any
) -> EventLog:
    """Open a log in a directory (``file``) or in memory (``memory``); see `eventlog.open`."""
    options = _options(**given)
    if kind == "memory":
        return _open_memory(place, options, blobs)
    return EmbeddedLog(Path(place).expanduser().absolute(), options, place, blobs=blobs)


def _options(
    *,
    create: bool,
    read_only: bool,
    durability: Literal["disk", "process"] | None,
    lock_timeout: Duration,
    map_size: int,
    clock: Callable[[], int] = _system_clock,
) -> Options:
    if durability not in ("disk", "process", None):
        raise ValueError(f"durability is 'disk' or 'process', not {durability!r:.80}")
    if not MIN_MAP_BYTES <= map_size <= MAX_MAP_BYTES:
        raise ValueError(
            f"map_size is from {MIN_MAP_BYTES:,} to {MAX_MAP_BYTES:,} bytes, not {map_size:,}"
        )
    wait = settings.seconds(lock_timeout, "lock_timeout")
    return Options(create, read_only, durability, map_size, wait, clock)


# Logs in memory: the same engine in a temporary directory, in memory where there is such a place.

_memory_mutex = threading.Lock()
_memory_users: dict[Path, int] = {}
_memory_names: dict[str, Path] = {}
_memory_makers: dict[Path, int] = {}


def _open_memory(name: str, options: Options, blobs: str | BlobStore | None) -> EventLog:
    """A log that goes with its last user, or with the process."""
    location = f"memory:{name}"
    with _memory_mutex:
        directory = _memory_names.get(name)
        if directory is None:
            if options.read_only or not options.create:
                raise LogNotFoundError(f"{location} is not open in this process")
            directory = _memory_directory()
            if name:
                _memory_names[name] = directory
        _memory_users[directory] = _memory_users.get(directory, 0) + 1
    try:
        in_memory = options._replace(create=True, durability="process")
        return EmbeddedLog(directory, in_memory, location, blobs=blobs, removed_on_close=True)
    except BaseException:
        _forget_memory(directory)
        raise


def _memory_directory() -> Path:
    parent = _MEMORY_FILE_SYSTEM if os.access(_MEMORY_FILE_SYSTEM, os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="eventlog-", dir=parent))
    _memory_makers[directory] = os.getpid()
    return directory


def _forget_memory(directory: Path) -> None:
    with _memory_mutex:
        _memory_users[directory] -= 1
        if _memory_users[directory]:
            return
        del _memory_users[directory]
        for name in [name for name, there in _memory_names.items() if there == directory]:
            del _memory_names[name]
    _remove_memory(directory)


def _remove_memory(directory: Path) -> None:
    """Only the process that made it does: a forked child shares its parent's."""
    if _memory_makers.get(directory) == os.getpid():
        shutil.rmtree(directory, ignore_errors=True)


@atexit.register
def _remove_all_memory() -> None:
    for directory in _memory_users:
        _remove_memory(directory)


def _renew_memory_mutex() -> None:
    global _memory_mutex  # noqa: PLW0603 - its copy may be held by a thread of the parent's
    _memory_mutex = threading.Lock()


os.register_at_fork(after_in_child=_renew_memory_mutex)
